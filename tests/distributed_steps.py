"""What one of several processes trains, step by step, in float64: for tests/test_distributed.py.

python tests/distributed_steps.py FILE     # the first process writes there what came out
"""

import sys

import torch
from sklearn.datasets import load_digits

from configs.config_moco import MoCoConfig
from configs.config_scan import ScanConfig
from configs.config_selflabel import SelfLabelConfig
from configs.config_simclr import SimCLRConfig
from configs.presets import STROKES
from src_py.augmentation import Augmentation
from src_py.backbones import BackboneSpec, CompactSpec
from src_py.images.loaders import ResidentImages, shuffled_batches
from src_py.inference import all_logits
from src_py.models import ClusterHeads, ClusteringModel, ContrastiveModel, KeyQueue
from src_py.optimizers import adam, moving_average, pretext_optimizer
from src_py.pseudo_labels import PseudoLabels
from src_py.run import hardware as hardware_of
from src_py.training_loops import moco_steps, scan_steps, self_label_steps, simclr_steps

IMAGES, BATCH = 93, 31  # neither two nor four processes can divide it evenly
STRONG = Augmentation(flip=0.5, crop_scale=(0.5, 1.0), strong_ops=4, cutout=0.5, grayscale=0.2)


def exactly(model):
    """In float64, in which rounding does not grow to something that could hide a mistake."""
    model.double()
    for backbone in (part for part in model.modules() if hasattr(part, "spec")):
        backbone.register_forward_pre_hook(lambda _, images: images[0].double())
    return model.train()


def encoder(hardware, spec):
    torch.manual_seed(0)
    return hardware.place(exactly(ContrastiveModel(spec, 16)))


def classifier(hardware, heads):
    torch.manual_seed(0)
    backbone = encoder(hardware, CompactSpec(8, 1)).backbone
    return hardware.place(exactly(ClusteringModel(backbone, ClusterHeads(64, 5, heads))))


def main(file):
    torch.set_num_threads(1)
    hardware = hardware_of.choose_hardware("cpu")
    # As on a GPU, views of more than one batch at once: three of self-labelling's, two of SCAN's.
    hardware_of.Hardware.images_at_once = lambda *_: 2 * BATCH + 1
    digits = torch.tensor(load_digits().images[:IMAGES] * 15.9).to(torch.uint8)
    pixels = digits[:, None].repeat_interleave(2, 2).repeat_interleave(2, 3)
    images = ResidentImages(pixels, hardware.device, hardware.world)
    losses = {}

    def train(name, steps, pairs, *parts):
        """Three epochs."""
        for epoch in range(3):
            generator = hardware.generator(epoch)
            rows = shuffled_batches(IMAGES, BATCH, generator)
            if pairs:
                rows = [torch.stack([each, (each + 1) % IMAGES]) for each in rows]
            taken = steps(*parts[:-1], images.batches(rows), generator, parts[-1], hardware)
            losses.setdefault(name, []).extend(step.values["loss"].sum().item() for step in taken)

    simclr = SimCLRConfig(run="r", augment=STROKES, views=3)
    first = encoder(hardware, BackboneSpec(8, 1, small_stem=True))
    train("simclr", simclr_steps, False, first, pretext_optimizer(first, simclr), simclr)

    moco = MoCoConfig(run="r", augment=STROKES, optimizer="muon")
    other, target = encoder(hardware, CompactSpec(8, 1)), encoder(hardware, CompactSpec(8, 1))
    torch.manual_seed(0)
    queue = exactly(KeyQueue(64, 16))
    train("moco", moco_steps, False, other, target, queue, pretext_optimizer(other, moco), moco)

    scan = ScanConfig(run="r", clusters=5, heads=2, augment=STRONG, plain_neighbors=True)
    model = classifier(hardware, heads=2)
    train("scan", scan_steps, True, model, adam(model, scan), scan)

    labelling = SelfLabelConfig(run="r", threshold=0.3, strong_augment=STRONG)
    student = classifier(hardware, heads=1)
    teacher = moving_average(student, 0.5, hardware, compiled=False)
    known = PseudoLabels(IMAGES, hardware.device)
    known.reliable = torch.arange(IMAGES) % 6 - 1
    parts = (student, teacher, known, adam(student, labelling), labelling)
    train("selflabel", self_label_steps, False, *parts)

    logits = all_logits(model, images, hardware, 20)
    trained = {"simclr": first, "moco": other, "scan": model, "selflabel": student}
    if hardware.world.is_first:
        weights = {name: each.state_dict() for name, each in trained.items()}
        torch.save({"losses": losses, "weights": weights, "logits": logits}, file)


if __name__ == "__main__":
    main(sys.argv[1])
