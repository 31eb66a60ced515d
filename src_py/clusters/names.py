"""What a person says about the clusters: their names, and which of them are one and the same.

It is kept in ckp/<run>/labels.json, beside the weights and apart from them:

    {
      "version": 1,
      "clusters": 10,
      "classifier": "5f70bf18a086",
      "names": {
        "3": "cat"
      },
      "merge": [
        [3, 7]
      ]
    }

One entry a line: deleting the line takes it back. A merged group goes by its lowest cluster.
"classifier" tells which training numbered the clusters; a file without it is read as well.
"""

import json
import re
import unicodedata
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from src_py.run.errors import UserError
from src_py.run.files import write_atomically

LABELS_FILE = "labels.json"  # in ckp/<run>/
VERSION = 1


@dataclass(frozen=True)
class ClusterNames:
    """Names and merged groups of a classifier's clusters.

    Attributes:
        clusters: how many the classifier has.
        names: by cluster; a cluster without one is called cluster_<number>.
        merge: groups of two or more clusters, each ascending.
        classifier: tells the training that numbered the clusters from another; "" is any.

    Raises:
        UserError: for a cluster that does not exist or is in two groups, a group of fewer than
            two, or a name that is empty or holds a control character.
    """

    clusters: int
    names: dict[int, str]
    merge: tuple[tuple[int, ...], ...]
    classifier: str = ""

    def __post_init__(self) -> None:
        for cluster, name in self.names.items():
            self._require_cluster(cluster)
            if not name.strip() or any(unicodedata.category(c) in ("Cc", "Cs") for c in name):
                raise UserError(f"cluster {cluster}: {name!r} is no name of one line")
        members = [cluster for group in self.merge for cluster in group]
        for cluster in members:
            self._require_cluster(cluster)
            if members.count(cluster) > 1:
                raise UserError(f"cluster {cluster} is merged twice: name it in one group, once")
        if any(len(group) < 2 for group in self.merge):
            raise UserError("a group to merge needs two clusters or more")

    def _require_cluster(self, cluster: int) -> None:
        if not 0 <= cluster < self.clusters:
            raise UserError(f"there is no cluster {cluster}: they are 0 to {self.clusters - 1}")

    @staticmethod
    def load(path: Path, clusters: int, classifier: str = "") -> "ClusterNames":
        """What `path` says; where there is no such file, no cluster is named or merged.

        Args:
            classifier: of the run as it is now.

        Raises:
            UserError: when the file is not of this format, or of a run with other clusters.
        """
        try:
            text = path.read_text(encoding="utf-8-sig")  # some editors begin with a mark
        except FileNotFoundError:
            return ClusterNames(clusters, {}, (), classifier)
        except UnicodeDecodeError:
            raise UserError(f"{path} is not UTF-8 text: save it as that, or delete it") from None
        try:
            return _from_content(_parse(text), clusters, classifier)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None

    def write(self, path: Path) -> None:
        """Writes them, all or nothing, one entry a line."""
        names = [
            f'"{cluster}": {json.dumps(name, ensure_ascii=False)}'
            for cluster, name in sorted(self.names.items())
        ]
        groups = [json.dumps(group) for group in sorted(self.merge)]
        told = f'  "classifier": "{self.classifier}",\n' if self.classifier else ""
        text = (
            f'{{\n  "version": {VERSION},\n  "clusters": {self.clusters},\n{told}'
            f'  "names": {_block("{}", names)},\n  "merge": {_block("[]", groups)}\n}}\n'
        )
        write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))

    def group_of(self, cluster: int) -> tuple[int, ...]:
        """The clusters that `cluster` is one with, itself included, ascending."""
        return next((group for group in self.merge if cluster in group), (cluster,))

    @property
    def groups(self) -> list[tuple[int, ...]]:
        """Every group, and every cluster that is in none as a group of its own, by lowest."""
        found = (self.group_of(cluster) for cluster in range(self.clusters))
        return [group for cluster, group in enumerate(found) if cluster == group[0]]

    @property
    def group_names(self) -> list[str]:
        """Each of `groups` as a picture tells it: its clusters, and its name if it has one."""
        return [
            "+".join(map(str, group))
            + (f" {self.name_of(group[0])}" if self.names.keys() & set(group) else "")
            for group in self.groups
        ]

    def name_of(self, cluster: int) -> str:
        """The name of a cluster's group: that of its lowest member that has one."""
        group = self.group_of(cluster)
        named = [self.names[member] for member in group if member in self.names]
        return named[0] if named else f"cluster_{group[0]}"

    def merged(self, probabilities: np.ndarray) -> np.ndarray:
        """(N, C) probabilities with each group's sum at its lowest member, zero at the others."""
        merged = probabilities.copy()
        for lowest, *others in self.merge:
            merged[:, lowest] += probabilities[:, others].sum(axis=1)
            merged[:, others] = 0
        return merged

    def with_name(self, cluster: int, name: str) -> "ClusterNames":
        """These names with a cluster's group called `name`."""
        self._require_cluster(cluster)
        return replace(self, names=self.names | {self.group_of(cluster)[0]: name.strip()})

    def with_merge(self, clusters: tuple[int, ...]) -> "ClusterNames":
        """These names with `clusters`, and whatever they are merged with already, as one."""
        if len(set(clusters)) < max(2, len(clusters)):
            raise UserError(f"to merge {list(clusters)}: name two clusters or more, each once")
        joined = {member for cluster in clusters for member in self.group_of(cluster)}
        apart = [group for group in self.merge if joined.isdisjoint(group)]
        return replace(self, merge=tuple(sorted([*apart, tuple(sorted(joined))])))


def set_aside(path: Path) -> None:
    """Keeps the names of clusters that are about to be replaced out of the way of new ones."""
    if path.exists():
        taken = len(list(path.parent.glob(f"{path.stem}.old*.json")))
        old = path.with_name(f"{path.stem}.old{taken or ''}.json")
        path.replace(old)
        print(f"{path} named the clusters of an earlier training: it is {old} now")


def _block(brackets: str, lines: list[str]) -> str:
    """Entries between brackets, each on a line of its own."""
    if not lines:
        return brackets
    return brackets[0] + "\n    " + ",\n    ".join(lines) + "\n  " + brackets[1]


def _parse(text: str) -> object:
    try:
        return json.loads(text, object_pairs_hook=_without_duplicates)
    except json.JSONDecodeError as error:
        for comma in re.finditer(r",\s*[]}]", text):
            if comma.start() <= error.pos < comma.end():
                line = text.count("\n", 0, comma.start()) + 1
                raise UserError(
                    f"line {line}: nothing follows the comma at the end: delete that comma"
                ) from None
        raise UserError(f"line {error.lineno}: not JSON ({error.msg})") from None


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    keys = [key for key, _ in pairs]
    for key in keys:
        if keys.count(key) > 1:
            raise UserError(f'"{key}" is there twice: delete one of them')
    return dict(pairs)


def _from_content(content: object, clusters: int, classifier: str) -> ClusterNames:
    known = {"version", "clusters", "classifier", "names", "merge"}
    if not isinstance(content, dict) or not {"version", "clusters"} <= content.keys() <= known:
        raise UserError(f"expected an object with {', '.join(sorted(known))}")
    if content["version"] != VERSION:
        raise UserError(f"version {content['version']}, this program reads version {VERSION}")
    if content["clusters"] != clusters:
        raise UserError(
            f"made for {content['clusters']} clusters, the run has {clusters} now: "
            "delete the file and name them again"
        )
    if classifier and (content.get("classifier") or classifier) != classifier:
        raise UserError(
            "made for an earlier training of scan.py, whose clusters had other numbers: delete the "
            "file and name them again"
        )
    names, merge = content.get("names", {}), content.get("merge", [])
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise UserError('"names" must be like {"3": "cat"}')
    if not isinstance(merge, list) or not all(_are_numbers(group) for group in merge):
        raise UserError('"merge" must be like [[3, 7]]')
    groups = tuple(sorted(tuple(sorted(group)) for group in merge))
    numbered = {_number(key): name for key, name in names.items()}
    return ClusterNames(clusters, numbered, groups, classifier)


def _are_numbers(group: object) -> bool:
    return isinstance(group, list) and all(type(cluster) is int for cluster in group)


def _number(key: str) -> int:
    if not re.fullmatch(r"0|[1-9][0-9]{0,8}", key):
        raise UserError(f'"names": "{key}" is not the number of a cluster')
    return int(key)
