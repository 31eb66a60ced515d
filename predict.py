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

from pathlib import Path
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
    from src_py.images.run_images import load_settings
    from src_py.images.seen import rows_by_pixels
    from src_py.output.gallery_images import GalleryImages
    from src_py.output.hand_off import hand_off, write_predictions
    from src_py.output.prediction import (
        NOTHING_SEEN,
        SeenImages,
        classify_files,
        list_left_out,
        open_classifier,
    )
    from src_py.run.csv_tables import write_table
    from src_py.run.errors import UserError
    from src_py.run.hardware import choose_hardware

    if not (config.paths or config.gallery):
        raise UserError("no image and no folder named: python predict.py --run RUN PATH...")
    files, out = config.files, config.out
    checkpoint = choose_classifier(files)
    hardware = choose_hardware(config.device, config.precision)
    earlier: dict[Path, Prediction] = {}
    paths: list[Path] = []
    if hardware.world.is_first:
        earlier = {prediction.path: prediction for prediction in finish_earlier_move(config)}
        paths = files_left(config, earlier)
    earlier, paths = hardware.world.of_the_first((earlier, paths))
    if earlier and not paths:
        if hardware.world.is_first:
            end_earlier_move(out, list(earlier.values()))
        return
    classifier = open_classifier(checkpoint, hardware, config.batch_size)
    cluster_names = load_cluster_names(files, classifier.model.heads.clusters)
    corrections = load_corrections(files, cluster_names)
    if not paths:
        show_training_images(config, classifier, cluster_names, corrections)
        return

    shown = GalleryImages() if config.gallery else None
    seen = NOTHING_SEEN
    if classifier.model.backbone.spec.frozen:
        seen = SeenImages.of_run(files, classifier, rows_by_pixels(files))
    given = corrections.of_files(paths, load_settings(files, config.data).folder)
    predictions, skipped = classify_files(paths, classifier, cluster_names, shown, given, seen)
    if not hardware.world.is_first:
        return
    skipped += list_left_out(config.paths, out)
    write_table(out / "skipped.csv", ("path", "reason"), skipped)
    if earlier and not predictions:
        print(f"{out / 'skipped.csv'}: {len(skipped)} files not read")
        end_earlier_move(out, list(earlier.values()))
        return
    if not predictions:
        told = none_readable(", ".join(map(str, config.paths)), skipped)
        raise UserError(f"{told}; all are listed in {out / 'skipped.csv'}")

    found = {prediction.path: prediction for prediction in predictions}
    predictions_of_all = list((earlier | found).values())
    write_predictions(out / "predictions.csv", predictions_of_all)
    print(f"{out / 'predictions.csv'}: {len(predictions)} images, by {checkpoint}")
    if corrected := sum(prediction.path in given for prediction in predictions):
        print(f"{corrected} of them as {files.corrections} says")
    if skipped:
        print(f"{out / 'skipped.csv'}: {len(skipped)} files not read")
    if shown is not None:
        shown.write(out / "gallery.html", config.run, cluster_names)
        print(f"{out / 'gallery.html'}: open it in a browser, and name the clusters")
    if config.review:
        review(config, classifier, predictions)
    if config.hand_off:
        hand_off(out, predictions, cluster_names, config.run)
    if config.sort:
        sort(config, config.sort, predictions, predictions_of_all, cluster_names)


def finish_earlier_move(config: PredictConfig) -> list["Prediction"]:
    """What a move that was interrupted has placed; only another move may end it."""
    from src_py.output.sorting import MOVES_FILE, finish_moves

    if config.sort == "move" and not config.dry_run:
        return finish_moves(config.out)
    if (config.out / MOVES_FILE).exists():
        how = "--sort move without --dry-run" if config.dry_run else "--sort move"
        print(f"{config.out}: an earlier move has not ended, and is left so; {how} ends it first")
    return []


def end_earlier_move(out: Path, predictions: list["Prediction"]) -> None:
    """When there is nothing else to move.

    Raises:
        UserError: when images are left that are not among those named now.
    """
    from src_py.output.hand_off import write_predictions
    from src_py.output.sorting import end_moves, moves_left
    from src_py.run.errors import UserError

    # Another call may have written other predictions since the move was interrupted.
    write_predictions(out / "predictions.csv", predictions)
    if left := moves_left(out):
        raise UserError(
            f"{out}: {len(left)} images of the earlier move could not be moved, the first is "
            f"{left[0]}: name them, too, and they are tried again"
        )
    end_moves(out)
    print(f"{out}: the move that was interrupted is done; predictions.csv holds all images")


def files_left(config: PredictConfig, earlier: dict[Path, "Prediction"]) -> list[Path]:
    """The files to classify.

    Args:
        earlier: what an interrupted move has placed: that nothing else is left is no mistake then.

    Raises:
        UserError: when there are none, or none that could be sorted or handed off.
    """
    from src_py.images.tars import is_in_shards
    from src_py.output.prediction import list_files
    from src_py.run.errors import UserError

    asked = [path for path in config.paths if path.exists() or path not in earlier]
    try:
        paths = list_files(asked, config.out) if asked else []
    except UserError:
        if earlier and all(path.exists() for path in asked):
            return []
        raise
    if (config.sort or config.hand_off) and any(map(is_in_shards, paths)):
        option = f"--sort {config.sort}" if config.sort else "--hand-off"
        raise UserError(f"{option}: images in shards are no files: unpack the shards (tar -xf)")
    return paths


def show_training_images(
    config: PredictConfig,
    classifier: "Classifier",
    cluster_names: "ClusterNames",
    corrections: "Corrections",
) -> None:
    import numpy as np

    from src_py.images.loaders import unshared
    from src_py.images.run_images import load_settings, open_mined
    from src_py.output.prediction import show_images
    from src_py.run.arrays import load_neighbors

    files = config.files
    settings = load_settings(files, config.data)
    images = open_mined(files, settings, classifier.hardware, config.loading)
    page = config.out / "gallery.html"
    given = corrections.of_rows(images.names)
    outputs = classifier.of_run(files, images.loader)
    if not classifier.hardware.world.is_first:
        return
    loader = unshared(images.loader)
    shown = show_images(loader, images.names, outputs, given, corrections.clusters)
    neighbors = load_neighbors(files)
    shown.write(page, config.run, cluster_names, neighbors)
    print(f"{page}: open it in a browser, and name the clusters")
    if corrections.given:
        print(f"{np.count_nonzero(given >= 0)} of its images as {files.corrections} says")


def review(
    config: PredictConfig, classifier: "Classifier", predictions: list["Prediction"]
) -> None:
    from src_py.output.hand_off import write_review

    page, table = config.out / "review.html", config.out / "review.csv"
    write_review(table, page, predictions, config.review, classifier.settings.ranges)
    print(f"{page}: the {min(config.review, len(predictions))} least confident images")


def sort(
    config: PredictConfig,
    how: str,
    predictions: list["Prediction"],
    predictions_of_all: list["Prediction"],
    cluster_names: "ClusterNames",
) -> None:
    """
    Args:
        predictions_of_all: with those of images that an interrupted move has placed.

    Raises:
        UserError: when a file could not be placed; the others are.
    """
    from src_py.output.sorting import begin_moves, end_moves, folder_names, plan, sort_files
    from src_py.run.errors import UserError

    names = {group[0]: cluster_names.name_of(group[0]) for group in cluster_names.groups}
    placements = plan(predictions, config.out, config.unsure, folder_names(names))
    if config.dry_run:
        for placement in placements:
            what = "already there:" if placement.present else f"would {how}:"
            print(f"{what} {placement.source} -> {placement.target}")
        print(f"--dry-run: none of these {len(placements)} images was touched")
        return
    if how == "move":
        begin_moves(config.out, placements, predictions_of_all)
    outcome = sort_files(placements, how)
    if how == "move" and not outcome.failures:
        end_moves(config.out)
    print(
        f"{config.out}: {how} of {outcome.placed} images, {outcome.present} already there, "
        f"{len(outcome.failures)} failed"
    )
    for failure in outcome.failures:
        print(f"failed: {failure}")
    if outcome.failures:
        if how == "move":  # what is left of it, and all predictions, for the next call
            begin_moves(config.out, placements, predictions_of_all)
        few = "none" if len(outcome.failures) == len(placements) else "not all"
        raise UserError(
            f"--sort {how}: {few} of the {len(placements)} images could be placed, "
            f"{len(outcome.failures)} failed: the same command tries these again"
        )


if __name__ == "__main__":
    run_script(PredictConfig, "predict", main, __doc__)
