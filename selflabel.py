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
    import numpy as np
    import torch

    from src_py.clusters.calibration import calibrate
    from src_py.clusters.guard import choose_by_views, view_information
    from src_py.images.run_images import load_settings, open_mined
    from src_py.inference import all_logits
    from src_py.run.checkpoints import clustering_content, load_clustering
    from src_py.run.hardware import choose_hardware
    from src_py.run.session import TrainingSession
    from src_py.training_loops import train_self_label

    files = config.files
    settings = load_settings(files)
    (scan,) = inputs = files.inputs("selflabel")
    hardware = choose_hardware(config.device)
    session = TrainingSession(config, "selflabel", hardware, inputs, started=STARTED)
    if session.is_finished:
        return

    opened = open_mined(files, settings, hardware, config.loading)
    neighbors = torch.from_numpy(np.load(files.neighbors)).to(hardware.device)  # (N, k)
    torch.manual_seed(config.seed)
    model = hardware.place(load_clustering(scan)[0], config.compile)

    final = train_self_label(model, opened.loader, neighbors, config, session)
    given = hardware.place(load_clustering(scan)[0])
    evidence = {
        name: view_information(
            classifier,
            opened.loader,
            neighbors,
            config.strong_augment,
            hardware,
            session.generator(epoch=-1),
        )
        for name, classifier in (("scan", given), ("selflabel", final))
    }
    kept = choose_by_views(evidence, config.guard, session.say)
    final = given if kept == "scan" else final
    logits = all_logits(final, opened.loader, hardware, config.batch_size)[0]
    temperature = calibrate("selflabel", logits, neighbors, session.say)

    content = clustering_content(final, settings, temperature)
    path = session.finish(content, kept=kept, information=evidence)
    print(f"{path} written; next: python evaluate.py {files.option}")


if __name__ == "__main__":
    run_script(SelfLabelConfig, "selflabel", main, __doc__)
