"""Names the clusters of a run, and merges those that are one and the same.

    python label.py --run holiday --show
    python label.py --run holiday --merge 3,7 --name 3=cat --name 5=dog

Writes ckp/<run>/labels.json, which predict.py and evaluate.py read; the weights stay as they are.
An entry is taken back by deleting its line from the file.
"""

from configs.base_config import run_script
from configs.config_label import LabelConfig


def main(config: LabelConfig) -> None:
    # Imported here, so that --help and wrong options do not wait for torch.
    from src_py.checkpoints import load_checkpoint, load_cluster_labels, require
    from src_py.cluster_labels import LABELS_FILE
    from src_py.errors import UserError

    groups, names = config.groups, config.names
    if not (groups or names or config.show):
        raise UserError("nothing to do: give --merge 3,7 or --name 3=cat, or --show")
    files = config.files
    scan = require(files, files.output("scan"), f"scan.py {files.option}")
    labels = load_cluster_labels(files, load_checkpoint(scan)["clusters"])
    # Names after groups: --merge 3,7 --name 7=cat names both.
    for group in groups:
        labels = labels.with_merge(group)
    for cluster, name in names:
        labels = labels.with_name(cluster, name)

    print(f"{'cluster':<16}name")
    for group in labels.groups:
        print(f"{', '.join(map(str, group)):<16}{labels.name_of(group[0])}")
    if not config.show:
        path = files.checkpoints / LABELS_FILE
        labels.write(path)
        print(f"{path} written")


if __name__ == "__main__":
    run_script(LabelConfig, "label", main, __doc__)
