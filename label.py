"""Names the clusters of a run, merges those that are one and the same, and mends them.

    python label.py --run holiday --serve          # in the browser: name, merge, move, split, undo
    python label.py --run holiday --show
    python label.py --run holiday --merge 3,7 --name 3=cat --name 5=dog
    python label.py --run holiday --merge-to 10    # after more clusters than there are kinds

Writes ckp/<run>/labels.json, which the gallery, predict.py, evaluate.py and export.py read; images
that --serve moves go to ckp/<run>/corrections.csv, which predict.py and selflabel.py read. The
weights stay as they are. An entry is taken back by deleting its line from the file.
"""

from typing import TYPE_CHECKING, Any

from configs.config_label import LabelConfig
from src_py.run.options import run_script

if TYPE_CHECKING:
    from collections.abc import Sequence

    from src_py.clusters.labelling import Labelling
    from src_py.clusters.names import ClusterNames
    from src_py.output.served_images import ServedImages
    from src_py.run.files import RunFiles


def main(config: LabelConfig) -> None:
    # Imported here, so that --help and wrong options do not wait for torch.
    from src_py.clusters.classifier import cluster_names_again, load_cluster_names
    from src_py.run.checkpoints import load_checkpoint
    from src_py.run.claim import editing, settle
    from src_py.run.errors import UserError
    from src_py.run.stages import LABELS_FILE

    if config.serve:
        serve(config)
        return
    if not (config.groups or config.names or config.merge_to or config.show):
        raise UserError(
            "nothing to do: give --serve, --merge 3,7, --merge-to 10, --name 3=cat, or --show"
        )
    files = config.files
    settle(files)
    made = [files.made(files.output("scan"), "scan")]
    if files.is_current("selflabel", corrected=False):  # may have learned of clusters from splits
        made.append(files.made(files.output("selflabel"), "selflabel"))
    clusters = max(load_checkpoint(path)["clusters"] for path in made)
    before = load_cluster_names(files, clusters)
    groups = groups_to_merge(config, before)  # may take minutes: others may write meanwhile
    if config.show:
        tell(files, said(config, groups, before))
        return
    with editing(files):  # no second command reads before this one has written
        cluster_names = said(config, groups, cluster_names_again(files, clusters, before))
        tell(files, cluster_names)
        path = files.checkpoints / LABELS_FILE
        cluster_names.write(path)
    print(f"{path} written")


def groups_to_merge(config: LabelConfig, cluster_names: "ClusterNames") -> list[tuple[int, ...]]:
    """Those that the options name, and those that --merge-to finds after them."""
    if not config.merge_to:
        return config.groups
    for group in config.groups:
        cluster_names = cluster_names.with_merge(group)
    return [*config.groups, *merged_by_neighbors(config, cluster_names, config.merge_to)]


def said(
    config: LabelConfig, groups: "Sequence[tuple[int, ...]]", cluster_names: "ClusterNames"
) -> "ClusterNames":
    """Names and groups with what the options say; names after groups, so that --merge 3,7
    --name 7=cat names both.

    Args:
        groups: what to merge, by `groups_to_merge`.
    """
    for group in groups:
        cluster_names = cluster_names.with_merge(group)
    for cluster, name in config.names:
        cluster_names = cluster_names.with_name(cluster, name)
    return cluster_names


def tell(files: "RunFiles", cluster_names: "ClusterNames") -> None:
    """Prints what is said of the clusters, and how many images a person has moved."""
    from src_py.clusters.classifier import load_corrections
    from src_py.images.seen import read_rows

    print(f"{'cluster':<16}name")
    for group in cluster_names.groups:
        print(f"{', '.join(map(str, group)):<16}{cluster_names.name_of(group[0])}")
    if (corrections := load_corrections(files, cluster_names)).given:
        gone = corrections.gone(read_rows(files)) if files.rows.exists() else 0
        print(
            f"{files.corrections}: {len(corrections.given)} images are where a person put them"
            + (f", of which {gone} are not among the run's images any more" if gone else "")
        )


def merged_by_neighbors(
    config: LabelConfig, cluster_names: "ClusterNames", merge_to: int
) -> list[tuple[int, ...]]:
    """Groups of clusters that the training images say are one, with `merge_to` left over."""
    from src_py.clusters.classifier import choose_classifier, load_corrections
    from src_py.clusters.corrections import correct
    from src_py.clusters.merging import merge_by_neighbors
    from src_py.images.run_images import load_settings, open_mined
    from src_py.output.prediction import open_classifier
    from src_py.run.arrays import load_neighbors
    from src_py.run.errors import UserError
    from src_py.run.hardware import choose_hardware

    files, groups = config.files, cluster_names.groups
    if merge_to > len(groups):
        raise UserError(
            f"--merge-to {merge_to}: there are {len(groups)} clusters, what is merged "
            f"already counted as one"
        )
    hardware = choose_hardware(config.device, config.precision)
    classifier = open_classifier(choose_classifier(files), hardware)
    settings = load_settings(files, config.data)
    images = open_mined(files, settings, hardware, config.loading)
    lowest = [group[0] for group in groups]  # where a group's probability is
    _, probabilities = classifier.of_run(files, images.loader)
    given = load_corrections(files, cluster_names).of_rows(images.names)
    probabilities = correct(probabilities, given, cluster_names.clusters)
    probabilities = cluster_names.merged(probabilities)[:, lowest]
    neighbors = load_neighbors(files)
    found = merge_by_neighbors(probabilities, neighbors, merge_to)
    return [tuple(lowest[place] for place in group) for group in found if len(group) > 1]


def serve(config: LabelConfig) -> None:
    """Serves the page until Ctrl-C."""
    import threading
    import webbrowser

    from src_py.output.label_server import LabelServer

    server = LabelServer(*opened_run(config), config.port)
    print(f"{server.url}\nopen this in a browser; Ctrl-C ends it", flush=True)
    if config.browser:
        threading.Thread(target=webbrowser.open, args=(server.url,), daemon=True).start()
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print(f"\nended; all that was said is in {config.files.checkpoints}")
    finally:
        server.server_close()


def opened_run(config: LabelConfig) -> tuple["Labelling", "ServedImages", dict[str, Any]]:
    """What there is to name and to mend, its pictures, and what the page is told of them."""
    import numpy as np

    from src_py.clusters import classifier as of_run
    from src_py.clusters.labelling import Labelling, Said
    from src_py.images.run_images import load_settings, open_mined
    from src_py.output.prediction import open_classifier
    from src_py.output.served_images import ServedImages
    from src_py.run.arrays import load_features
    from src_py.run.claim import editing
    from src_py.run.hardware import choose_hardware

    files = config.files
    hardware = choose_hardware(config.device, config.precision)
    classifier = open_classifier(of_run.choose_classifier(files), hardware)
    settings = load_settings(files, config.data)
    images = open_mined(files, settings, hardware, config.loading)
    clusters = classifier.model.heads.clusters
    before = of_run.load_cluster_names(files, clusters)
    _, probabilities = classifier.of_run(files, images.loader)  # (N, C)
    predicted = probabilities.argmax(axis=1)
    facts = {
        "run": config.run,
        "names": list(images.names),
        "thousandths": np.rint(1000 * probabilities.max(axis=1)).astype(int).tolist(),
        "predicted": predicted.tolist(),
    }
    features = load_features(files)
    with editing(files):  # others may have written while the images were looked at
        names = of_run.cluster_names_again(files, clusters, before)
        said = Said(names, of_run.load_corrections(files, names))
        labelling = Labelling(files, images.names, predicted, features, said)
    shown = ServedImages(images.names, settings.folder, images.loader, settings.ranges)
    return labelling, shown, facts


if __name__ == "__main__":
    run_script(LabelConfig, "label", main, __doc__)
