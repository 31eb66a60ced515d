"""Sorts images into the clusters of a finished run.

    python predict.py --run holiday photos --out out
    python predict.py --run holiday one.jpg two.jpg --out out

Writes out/predictions.csv (path, cluster, name, confidence), one row for each readable image in
input order, and out/skipped.csv (path, reason).
"""

from configs.base_config import run_script
from configs.config_predict import PredictConfig

HEADER = ("path", "cluster", "name", "confidence")


def main(config: PredictConfig) -> None:
    # Imported here, so that --help and wrong options do not wait for torch.
    from src_py.checkpoints import is_current, load_clustering, require
    from src_py.datasets import DataSettings
    from src_py.errors import UserError
    from src_py.hardware import choose_hardware
    from src_py.prediction import classify_files, list_files
    from src_py.run_files import write_table

    if not config.paths:
        raise UserError("no image and no folder named: python predict.py --run RUN PATH...")
    files = config.files
    require(files, files.data, f"simclr.py --run {config.run}")
    scan = require(files, files.output("scan"), f"scan.py --run {config.run}")
    checkpoint = files.output("selflabel")
    if not checkpoint.exists() or not is_current(files, "selflabel", scan):
        checkpoint = scan
        print(f"selflabel.py has not been run on {scan}: using that")
    paths = list_files(config.paths)
    hardware = choose_hardware(config.device)
    model, content = load_clustering(checkpoint)
    settings = DataSettings(**content["data"])

    rows, skipped = classify_files(
        paths, hardware.place(model), settings, hardware, config.batch_size
    )
    if not rows:
        raise UserError(f"none of the {len(paths)} files can be read; the first: {skipped[0]}")

    write_table(config.out / "predictions.csv", HEADER, rows)
    write_table(config.out / "skipped.csv", ("path", "reason"), skipped)
    print(f"{config.out / 'predictions.csv'}: {len(rows)} images, by {checkpoint}")
    if skipped:
        print(f"{config.out / 'skipped.csv'}: {len(skipped)} unreadable files")


if __name__ == "__main__":
    run_script(PredictConfig, "predict", main, __doc__)
