"""Sorts images into the clusters of a finished run.

    python predict.py --run holiday photos --out out
    python predict.py --run holiday one.jpg two.jpg --out out
    python predict.py --run holiday photos --out out --sort copy --unsure 0.5
    python predict.py --run holiday --gallery     # only the gallery, of the images trained on

Writes out/predictions.csv (path, cluster, name, confidence), one row for each readable image in
input order, and out/skipped.csv (path, reason); with --gallery also out/gallery.html, with
--review review.csv and review.html, with --hand-off label_studio.json and .xml and fiftyone.json.
Names and merged clusters are those of ckp/<run>/labels.json (the gallery and label.py write it);
images that a person has put into a cluster (ckp/<run>/corrections.csv, by label.py --serve) are in
that, with a confidence of 1.
"""

from typing import TYPE_CHECKING

from configs.config_predict import PredictConfig
from src_py.run.options import run_script

if TYPE_CHECKING:
    from src_py.clusters.corrections import Corrections
    from src_py.clusters.names import ClusterNames
    from src_py.output.prediction import Classifier, Prediction


def main(config: PredictConfig) -> None:
    # Imported here, so that --help and wrong options do not wait for torch.
    from src_py.clusters.classifier import (
        choose_classifier,
        load_cluster_names,
        load_corrections,
    )
    from src_py.images.decoding import none_readable
    from src_py.output.gallery_images import GalleryImages
    from src_py.output.hand_off import hand_off, write_predictions
    from src_py.output.prediction import (
        classify_files,
        list_files,
        list_left_out,
        open_classifier,
    )
    from src_py.run.errors import UserError
    from src_py.run.files import write_table
    from src_py.run.hardware import choose_hardware

    if not (config.paths or config.gallery):
        raise UserError("no image and no folder named: python predict.py --run RUN PATH...")
    files, out = config.files, config.out
    checkpoint = choose_classifier(files)
    paths = list_files(config.paths, out) if config.paths else []
    hardware = choose_hardware(config.device)
    classifier = open_classifier(checkpoint, hardware, config.batch_size)
    cluster_names = load_cluster_names(files, classifier.model.heads.clusters)
    corrections = load_corrections(files, cluster_names)
    if not paths:
        show_training_images(config, classifier, cluster_names, corrections)
        return

    shown = GalleryImages() if config.gallery else None
    given = corrections.of_files(paths, classifier.settings.folder)
    predictions, skipped = classify_files(paths, classifier, cluster_names, shown, given)
    skipped += list_left_out(config.paths, out)
    write_table(out / "skipped.csv", ("path", "reason"), skipped)
    if not predictions:
        told = none_readable(", ".join(map(str, config.paths)), skipped)
        raise UserError(f"{told}; all are listed in {out / 'skipped.csv'}")

    write_predictions(out / "predictions.csv", predictions)
    print(f"{out / 'predictions.csv'}: {len(predictions)} images, by {checkpoint}")
    if corrected := sum(prediction.path in given for prediction in predictions):
        print(f"{corrected} of them as {files.corrections} says")
    if skipped:
        print(f"{out / 'skipped.csv'}: {len(skipped)} files not read")
    if shown is not None:
        shown.write(out / "gallery.html", config.run, cluster_names)
        print(f"{out / 'gallery.html'}: open it in a browser, and name the clusters")
    if config.review:
        review(config, predictions)
    if config.hand_off:
        hand_off(out, predictions, cluster_names, config.run)
    if config.sort:
        sort(config, config.sort, predictions)


def show_training_images(
    config: PredictConfig,
    classifier: "Classifier",
    cluster_names: "ClusterNames",
    corrections: "Corrections",
) -> None:
    import numpy as np

    from src_py.images.run_images import open_mined
    from src_py.output.prediction import show_images

    files = config.files
    images = open_mined(files, classifier.settings, classifier.hardware, config.loading)
    page = config.out / "gallery.html"
    given = corrections.of_rows(images.names)
    outputs = classifier.of_run(files, images.loader)
    shown = show_images(images.loader, images.names, outputs, given, corrections.clusters)
    neighbors = np.load(files.require(files.neighbors, "extract_features"))
    shown.write(page, config.run, cluster_names, neighbors)
    print(f"{page}: open it in a browser, and name the clusters")
    if corrections.given:
        print(f"{np.count_nonzero(given >= 0)} of its images as {files.corrections} says")


def review(config: PredictConfig, predictions: list["Prediction"]) -> None:
    from src_py.output.hand_off import write_review

    page = config.out / "review.html"
    write_review(config.out / "review.csv", page, predictions, config.review)
    print(f"{page}: the {min(config.review, len(predictions))} least confident images")


def sort(config: PredictConfig, how: str, predictions: list["Prediction"]) -> None:
    """
    Raises:
        UserError: when not one file could be placed.
    """
    from src_py.output.sorting import plan, sort_files
    from src_py.run.errors import UserError

    placements = plan(predictions, config.out, config.unsure)
    if config.dry_run:
        for placement in placements:
            what = "already there:" if placement.present else f"would {how}:"
            print(f"{what} {placement.source} -> {placement.target}")
        print(f"--dry-run: none of these {len(placements)} images was touched")
        return
    outcome = sort_files(placements, how)
    print(
        f"{config.out}: {how} of {outcome.placed} images, {outcome.present} already there, "
        f"{len(outcome.failures)} failed"
    )
    for failure in outcome.failures:
        print(f"failed: {failure}")
    if len(outcome.failures) == len(placements):
        raise UserError(f"--sort {how}: none of the {len(placements)} images was placed")


if __name__ == "__main__":
    run_script(PredictConfig, "predict", main, __doc__)
