"""Stage 1, the pretext: learns features from the images alone (SimCLR).

    python simclr.py                                   # the digits that scikit-learn ships
    python simclr.py --preset cifar10                  # a known set, downloaded to ./data
    python simclr.py --data photos --run holiday       # any folder of images
    python simclr.py --data photos --init efficientnet_lite0    # weights that know photos already

Leaves ckp/<run>/pretext.pt. Next: python extract_features.py --run <run>
"""

from configs.config_simclr import SimCLRConfig
from src_py.run.options import STARTED, run_script


def main(config: SimCLRConfig) -> None:
    # Imported here, so that --help and wrong options do not wait for torch.
    import torch

    from src_py.backbones import new_spec
    from src_py.images.run_images import settle_images, settled
    from src_py.models import ContrastiveModel
    from src_py.run.claim import claim
    from src_py.run.hardware import choose_hardware
    from src_py.run.pretrained import (
        pretrained_model,
        settle_network,
        starting_preset,
        weights_hint,
    )
    from src_py.run.session import TrainingSession
    from src_py.run.stored_models import contrastive_content
    from src_py.training_loops import train_simclr

    claim(config.files, None if config.restart else config.data, begins_run=True)
    hardware = choose_hardware(config.device, config.precision)
    config = settle_network(config, hardware)
    session = TrainingSession(config, "simclr", hardware, started=STARTED)
    if session.is_finished:
        return

    on_cpu = hardware.device.type == "cpu"
    settings, images, opened = settle_images(config, starting_preset(config, on_cpu), hardware)
    session.remember(settled(config, settings, opened))

    if not session.is_resumable and (hint := weights_hint(config, settings, on_cpu)):
        session.say(hint)

    torch.manual_seed(config.seed)
    vocabulary = None
    if config.init:
        model, vocabulary = pretrained_model(config, settings)
    else:
        spec = new_spec(
            config.backbone, config.width_of_network, settings.channels, settings.image_size
        )
        model = ContrastiveModel(spec, config.projection_dim)
    model.backbone.set_statistics(settings.mean, settings.std)
    hardware.place(model, config.compile)

    if model.backbone.spec.frozen:
        session.begin()
    else:
        train_simclr(model, images, config, session)

    if config.freeze:
        model.backbone.set_frozen(True)
    path = session.finish(contrastive_content(model, vocabulary))
    print(f"{path} written; next: python extract_features.py {config.files.option}")


if __name__ == "__main__":
    run_script(SimCLRConfig, "simclr", main, __doc__)
