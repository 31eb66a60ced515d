"""Names the clusters of a run, and merges those that are one and the same.

    python label.py --run holiday --show
    python label.py --run holiday --merge 3,7 --name 3=cat --name 5=dog
    python label.py --run holiday --merge-to 10    # after more clusters than there are kinds

Writes ckp/<run>/labels.json, which the gallery, predict.py, evaluate.py and export.py read; the
weights stay as they are. An entry is taken back by deleting its line from the file.
"""

from typing import TYPE_CHECKING

from configs.config_label import LabelConfig
from src_py.run.options import run_script

if TYPE_CHECKING:
    from src_py.clusters.names import ClusterNames


def main(config: LabelConfig) -> None:
    # Imported here, so that --help and wrong options do not wait for torch.
    from src_py.clusters.classifier import load_cluster_names
    from src_py.clusters.names import LABELS_FILE
    from src_py.run.checkpoints import load_checkpoint
    from src_py.run.errors import UserError

    groups, names = config.groups, config.names
    if not (groups or names or config.merge_to or config.show):
        raise UserError("nothing to do: give --merge 3,7, --merge-to 10, --name 3=cat, or --show")
    files = config.files
    scan = files.require(files.output("scan"), "scan")
    cluster_names = load_cluster_names(files, load_checkpoint(scan)["clusters"])
    # Names after groups: --merge 3,7 --name 7=cat names both.
    for group in groups:
        cluster_names = cluster_names.with_merge(group)
    if config.merge_to:
        for group in merged_by_neighbors(config, cluster_names, config.merge_to):
            cluster_names = cluster_names.with_merge(group)
    for cluster, name in names:
        cluster_names = cluster_names.with_name(cluster, name)

    print(f"{'cluster':<16}name")
    for group in cluster_names.groups:
        print(f"{', '.join(map(str, group)):<16}{cluster_names.name_of(group[0])}")
    if not config.show:
        path = files.checkpoints / LABELS_FILE
        cluster_names.write(path)
        print(f"{path} written")


def merged_by_neighbors(
    config: LabelConfig, cluster_names: "ClusterNames", merge_to: int
) -> list[tuple[int, ...]]:
    """Groups of clusters that the training images say are one, with `merge_to` left over."""
    import numpy as np

    from src_py.clusters.classifier import choose_classifier
    from src_py.clusters.merging import merge_by_neighbors
    from src_py.images.run_images import open_mined
    from src_py.output.prediction import open_classifier
    from src_py.run.errors import UserError
    from src_py.run.hardware import choose_hardware

    files, groups = config.files, cluster_names.groups
    if merge_to > len(groups):
        raise UserError(
            f"--merge-to {merge_to}: there are {len(groups)} clusters, what is merged "
            f"already counted as one"
        )
    hardware = choose_hardware(config.device)
    classifier = open_classifier(choose_classifier(files), hardware)
    images = open_mined(files, classifier.settings, hardware, config.loading)
    lowest = [group[0] for group in groups]  # where a group's probability is
    _, probabilities = classifier.outputs(images.loader)
    probabilities = cluster_names.merged(probabilities)[:, lowest]
    neighbors = np.load(files.require(files.neighbors, "extract_features"))
    found = merge_by_neighbors(probabilities, neighbors, merge_to)
    return [tuple(lowest[place] for place in group) for group in found if len(group) > 1]


if __name__ == "__main__":
    run_script(LabelConfig, "label", main, __doc__)
