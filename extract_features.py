"""Stage 2, mining: features of every training image and its nearest neighbors.

    python extract_features.py
    python extract_features.py --run holiday --neighbors 50

Leaves ckp/<run>/features.npy (N x D float32) and neighbors.npy (N x k int64, self excluded); of
weights that stay as they are (--init) also views.npy (N x V x D float16), features of random views.
Next: python scan.py --run <run>
"""

from collections import deque
from typing import TYPE_CHECKING

from configs.config_extract_features import ExtractFeaturesConfig
from src_py.run.errors import UserError
from src_py.run.options import STARTED, run_script

if TYPE_CHECKING:
    from torch import nn

    from src_py.mining.unfinished import UnfinishedMining
    from src_py.run.hardware import Hardware


def main(config: ExtractFeaturesConfig) -> None:
    # Imported here, so that --help and wrong options do not wait for torch.
    from src_py.augmentation import PLAIN_VIEW
    from src_py.images.run_images import image_state, load_settings, open_train
    from src_py.inference import folded, infer, infer_views, watched
    from src_py.mining.unfinished import UnfinishedMining
    from src_py.neighbors import help_find_neighbors
    from src_py.run.claim import claim
    from src_py.run.files import hashes, recorded, settings_digest
    from src_py.run.hardware import choose_hardware
    from src_py.run.stored_models import load_contrastive

    files = config.files
    claim(files, config.data)
    hardware = choose_hardware(config.device, config.precision)
    settings = load_settings(files, config.data)
    (pretext,) = files.inputs("extract_features")
    model = hardware.place(load_contrastive(pretext))
    images = open_train(files, settings, hardware, config.loading)

    count, backbone = len(images.names), model.backbone
    frozen = backbone.spec.frozen
    if config.neighbors >= count:
        raise UserError(
            f"--neighbors {config.neighbors}: must be below the number of images, {count}"
        )
    if config.features == "projection" and frozen:
        raise UserError("--features projection: frozen weights have none that is used")

    world, mining = hardware.world, None
    if world.is_first:
        made_from = {
            "stage": "extract_features",
            "made_from": hashes([pretext]),
            "config": recorded(config),
            "settings": settings_digest(files.settled()),
            "images": image_state(images),
        }
        shape = (count, backbone.feature_dim, config.neighbors, config.views if frozen else 0)
        mining = UnfinishedMining.of(files, made_from, hardware.device, *shape)
    generator = hardware.generator(*b"extract_features")
    first, random = 0, generator.get_state()
    if mining and mining.rows:
        first, random = mining.rows, mining.random
        print(f"features: {first:,} of {count:,} images are there already")
    first, random = world.of_the_first((first, random))
    if frozen:  # nothing else is random
        generator.set_state(random)

    seen = (images.loader, hardware, config.batch_size)
    if frozen:  # all that later stages will ever ask of the network
        backbone = folded(backbone, settings.image_size)
        shown = [PLAIN_VIEW] + config.views * [config.augment]
        batches = infer_views(backbone, *seen, shown, generator, first)
    else:
        batches = infer(backbone, *seen, first)
    if mining is None:  # it has its part in each batch, and keeps none
        deque(batches, maxlen=0)
        help_find_neighbors(files.mining, world)
        return
    mining.store(watched(batches, count, "features", first), generator)
    search(mining, config, model.projection_head.cpu(), hardware)
    mining.finish(images.names, STARTED)
    print(f"{files.neighbors} written; next: python scan.py {files.option}")


def search(
    mining: "UnfinishedMining",
    config: ExtractFeaturesConfig,
    projection_head: "nn.Module",
    hardware: "Hardware",
) -> None:
    """Finds the neighbors of all images by their stored features."""
    import torch

    from src_py.feature_space import condition, in_blocks
    from src_py.mining.neighbor_graph import neighbor_statistics
    from src_py.neighbors import (
        Neighbors,
        are_all_alike,
        find_neighbors,
        with_directions,
    )
    from src_py.run.cores import available_cores
    from src_py.run.launch import launched_as

    features = mining.array("features")  # (N, D)
    print(f"features: {len(features)} x {features.shape[1]}")
    if are_all_alike(features):
        raise UserError(
            f"all {len(features)} images look the same to the network, so that nothing can be "
            "clustered: look at the images, or train the pretext for more epochs"
        )
    searched, scratch = torch.from_numpy(features), mining.folder
    if config.features == "projection":
        dim = projection_head(searched[:1]).shape[1]
        searched = in_blocks(projection_head, searched, dim, scratch)  # (N, 128)
    compared = condition(searched, config.components, scratch).numpy()
    share = launched_as().local_size  # of the cores, as long as the other processes wait
    neighbors = Neighbors(mining.array("neighbors"), mining.array("similarity"))
    find_neighbors(
        with_directions(compared, scratch),
        config.neighbors,
        threads=share * available_cores() if hardware.world.size > 1 else None,
        found=neighbors,
        folder=scratch,
        say=print,
        world=hardware.world,
        device=hardware.device,
    )
    for name, value in neighbor_statistics(*neighbors).items():
        print(f"neighbors: {name.replace('_', ' ')} {value:.4g}")


if __name__ == "__main__":
    run_script(ExtractFeaturesConfig, "extract_features", main, __doc__)
