"""Stage 4, self-labelling: the classifier learns from its own confident predictions.

    python selflabel.py
    python selflabel.py --run holiday --threshold 0.95

Leaves ckp/<run>/selflabel.pt. Next: python evaluate.py --run <run>, or
python predict.py --run <run> FOLDER --out out
"""

from configs.config_selflabel import SelfLabelConfig
from src_py.run.options import STARTED, run_script


def main(config: SelfLabelConfig) -> None:
    # Imported here, so that --help and wrong options do not wait for torch.
    import copy

    import numpy as np
    import torch

    from src_py import cluster_heads, training_loops
    from src_py.clusters import calibration, guard
    from src_py.images import run_images
    from src_py.inference import all_logits
    from src_py.run import checkpoints
    from src_py.run.hardware import choose_hardware
    from src_py.run.session import TrainingSession
    from src_py.stored_features import StoredFeatures

    files = config.files
    settings = run_images.load_settings(files)
    (scan,) = inputs = files.inputs("selflabel")
    hardware = choose_hardware(config.device)
    session = TrainingSession(config, "selflabel", hardware, inputs, started=STARTED)
    if session.is_finished:
        return

    images = run_images.open_mined(files, settings, hardware, config.loading).loader
    neighbors = torch.from_numpy(np.load(files.neighbors)).to(hardware.device)  # (N, k)

    torch.manual_seed(config.seed)
    given = hardware.place(checkpoints.load_clustering(scan)[0])
    model = hardware.place(copy.deepcopy(given), config.compile)
    views: guard.Views
    if given.backbone.spec.frozen:
        views = stored = StoredFeatures.load(files, hardware.device)
        model.heads = cluster_heads.self_label_heads(
            model.heads, stored, neighbors, config, session
        )
    else:
        views = guard.ImageViews(images, config.strong_augment, hardware)
        model = training_loops.train_self_label(model, images, neighbors, config, session)

    candidates = {"scan": given, "selflabel": model}
    compared = (candidates, views, neighbors, config, session)
    kept, information = guard.keep_scan_or_self_labelled(*compared)
    final = candidates[kept]
    if given.backbone.spec.frozen:
        with torch.no_grad():
            logits = final.heads(stored.plain)[0]
    else:
        logits = all_logits(final, images, hardware, config.batch_size)[0]
    temperature = calibration.calibrate("selflabel", logits, neighbors, session.say)

    content = checkpoints.clustering_content(final, settings, temperature)
    path = session.finish(content, kept=kept, information=information)
    print(f"{path} written; next: python evaluate.py {files.option}")


if __name__ == "__main__":
    run_script(SelfLabelConfig, "selflabel", main, __doc__)
