"""The other pretext, in the place of simclr.py: MoCo, for large images or small batches.

    python moco.py --data photos --run holiday --batch-size 64

Leaves ckp/<run>/pretext.pt, as simclr.py does. Next: python extract_features.py --run <run>
"""

from configs.config_moco import MoCoConfig
from configs.presets import PRESETS
from src_py.run.options import STARTED, run_script


def main(config: MoCoConfig) -> None:
    # Imported here, so that --help and wrong options do not wait for torch.
    import torch

    from src_py.backbones import new_spec
    from src_py.images.run_images import settle_images, settled
    from src_py.models import ContrastiveModel
    from src_py.run.claim import claim
    from src_py.run.hardware import choose_hardware
    from src_py.run.pretrained import settle_network
    from src_py.run.session import TrainingSession
    from src_py.run.stored_models import contrastive_content
    from src_py.training_loops import train_moco

    claim(config.files, None if config.restart else config.data, begins_run=True)
    hardware = choose_hardware(config.device, config.precision)
    config = settle_network(config, hardware)
    session = TrainingSession(config, "moco", hardware, started=STARTED)
    if session.is_finished:
        return

    settings, images, opened = settle_images(config, PRESETS[config.preset], hardware)
    session.remember(settled(config, settings, opened))

    torch.manual_seed(config.seed)
    spec = new_spec(
        config.backbone, config.width_of_network, settings.channels, settings.image_size
    )
    model = ContrastiveModel(spec, config.projection_dim)
    model.backbone.set_statistics(settings.mean, settings.std)
    hardware.place(model, config.compile)

    train_moco(model, images, config, session)

    if config.freeze:
        model.backbone.set_frozen(True)
    path = session.finish(contrastive_content(model))
    print(f"{path} written; next: python extract_features.py {config.files.option}")


if __name__ == "__main__":
    run_script(MoCoConfig, "moco", main, __doc__)
