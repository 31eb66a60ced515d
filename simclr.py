"""Stage 1, the pretext: learns features from the images alone (SimCLR).

    python simclr.py                                   # the digits that scikit-learn ships
    python simclr.py --preset cifar10                  # a known set, downloaded to ./data
    python simclr.py --data photos --run holiday       # any folder of images
    python simclr.py --data photos --init efficientnet_lite0   # photos: weights of others

Leaves ckp/<run>/pretext.pt. Next: python extract_features.py --run <run>
"""

from configs.config_simclr import SimCLRConfig
from configs.presets import PRESETS
from src_py.run.options import STARTED, run_script


def main(config: SimCLRConfig) -> None:
    # Imported here, so that --help and wrong options do not wait for torch.
    import torch

    from src_py.images.run_images import settle_images, settled
    from src_py.models import BackboneSpec, ContrastiveModel
    from src_py.run.checkpoints import contrastive_content
    from src_py.run.hardware import choose_hardware
    from src_py.run.pretrained import pretrained_model, pretrained_preset, weights_hint
    from src_py.run.session import TrainingSession
    from src_py.training_loops import train_simclr

    hardware = choose_hardware(config.device)
    session = TrainingSession(config, "simclr", hardware, started=STARTED)
    if session.is_finished:
        return

    preset = PRESETS[config.preset]
    if config.init:
        channels, on_cpu = config.channels or preset.channels, hardware.device.type == "cpu"
        preset = pretrained_preset(config.init, preset, channels, on_cpu)
    settings, images = settle_images(config, preset, hardware)
    session.remembered = settled(config, settings)

    if hint := weights_hint(config, settings, on_gpu=hardware.device.type != "cpu"):
        session.say(hint)

    torch.manual_seed(config.seed)
    vocabulary = None
    if config.init:
        model, vocabulary = pretrained_model(config, settings)
    else:
        spec = BackboneSpec.for_images(config.width, settings.channels, settings.image_size)
        model = ContrastiveModel(spec, config.projection_dim)
    model.backbone.set_statistics(settings.mean, settings.std)
    hardware.place(model, config.compile)

    if model.backbone.spec.frozen:
        session.begin()
    else:
        train_simclr(model, images, config, session)

    path = session.finish(contrastive_content(model, vocabulary))
    print(f"{path} written; next: python extract_features.py {config.files.option}")


if __name__ == "__main__":
    run_script(SimCLRConfig, "simclr", main, __doc__)
