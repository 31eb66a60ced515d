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
"clusters" counts those that splits have added, too (corrections.py). Where names have been
suggested, "suggestions" holds them with their scores, the best first: {"3": [["rose", 0.62]]}.
"""

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from src_py.run.errors import UserError
from src_py.run.files import write_atomically

VERSION = 1
MOST_ADDED = 1000  # clusters, by splits

Suggestions = Mapping[int, Sequence[tuple[str, float]]]  # of a cluster: words and their scores


@dataclass(frozen=True)
class ClusterNames:
    """Names and merged groups of a classifier's clusters.

    Attributes:
        clusters: how many the classifier has, and those that splits have added.
        names: by cluster; a cluster without one is called cluster_<number>.
        merge: groups of two or more clusters, each ascending.
        classifier: tells the training that numbered the clusters from another; "" is any.
        suggestions: what clusters might be called, by cluster; nobody has said so yet.

    Raises:
        UserError: for a cluster that does not exist or is in two groups, a group of fewer than
            two, a name that is empty or holds a control character, or one name of two groups.
    """

    clusters: int
    names: dict[int, str]
    merge: tuple[tuple[int, ...], ...]
    classifier: str = ""
    suggestions: Suggestions = field(default_factory=dict)

    def __post_init__(self) -> None:
        suggested = ((c, word) for c, words in self.suggestions.items() for word, _ in words)
        for cluster, name in (*self.names.items(), *suggested):
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
        self._require_names_apart()

    def _require_names_apart(self) -> None:
        """Two clusters of one name would be one in every table and folder, and nobody said so."""
        named = {group[0] for group in self.groups if self.names.keys() & set(group)}
        owner: dict[str, int] = {}
        # Of clusters without a name only those count whose number another one is called by.
        for cluster in sorted(range(self.clusters), key=lambda cluster: cluster not in named):
            if self.group_of(cluster)[0] != cluster:
                continue
            name = self.name_of(cluster)
            first = owner.setdefault(comparable(name), cluster)
            if first != cluster:
                raise UserError(
                    f"clusters {min(first, cluster)} and {max(first, cluster)} would both be called"
                    f" {name!r}: merge them, or give one another name"
                )

    def _require_cluster(self, cluster: int) -> None:
        if not 0 <= cluster < self.clusters:
            raise UserError(f"there is no cluster {cluster}: they are 0 to {self.clusters - 1}")

    @staticmethod
    def load(path: Path, clusters: int, classifier: str = "") -> "ClusterNames":
        """What `path` says; where there is no such file, no cluster is named or merged.

        Args:
            clusters: that the classifier has; the file may tell of more, which splits have added.
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
        words = [
            f'"{cluster}": {json.dumps([list(word) for word in words], ensure_ascii=False)}'
            for cluster, words in sorted(self.suggestions.items())
        ]
        suggested = f',\n  "suggestions": {_block("{}", words)}' if words else ""
        text = (
            f'{{\n  "version": {VERSION},\n  "clusters": {self.clusters},\n{told}'
            f'  "names": {_block("{}", names)},\n  "merge": {_block("[]", groups)}{suggested}\n}}\n'
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
        """Probabilities with each group's sum at its lowest member, zero at the others.

        Args:
            probabilities: (N, C), where C may lack clusters that splits have added.

        Returns:
            (N, clusters).
        """
        images, known = probabilities.shape
        merged = np.zeros((images, self.clusters), probabilities.dtype)
        merged[:, :known] = probabilities
        for lowest, *others in self.merge:
            merged[:, lowest] += merged[:, others].sum(axis=1)
            merged[:, others] = 0
        return merged

    def of_first(self, clusters: int) -> "ClusterNames":
        """What is said of the first clusters alone: those that a classifier has learned."""
        named = (group[0] for group in self.groups if self.names.keys() & set(group))
        kept = (tuple(c for c in group if c < clusters) for group in self.merge)
        return ClusterNames(
            clusters,
            {cluster: self.name_of(cluster) for cluster in named if cluster < clusters},
            tuple(group for group in kept if len(group) > 1),
            self.classifier,
        )

    def with_name(self, cluster: int, name: str) -> "ClusterNames":
        """These names with a cluster's group called `name`."""
        self._require_cluster(cluster)
        return replace(self, names=self.names | {self.group_of(cluster)[0]: name.strip()})

    def without_name(self, cluster: int) -> "ClusterNames":
        """These names with a cluster's group called by its number."""
        self._require_cluster(cluster)
        group = self.group_of(cluster)
        return replace(self, names={c: n for c, n in self.names.items() if c not in group})

    def without_merge(self, cluster: int) -> "ClusterNames":
        """These names with the clusters of a group each on its own."""
        self._require_cluster(cluster)
        group = self.group_of(cluster)
        return replace(self, merge=tuple(other for other in self.merge if other != group))

    def with_suggestions(self, suggestions: Suggestions) -> "ClusterNames":
        """These names with other suggestions."""
        return replace(self, suggestions={c: tuple(words) for c, words in suggestions.items()})

    def with_merge(self, clusters: tuple[int, ...]) -> "ClusterNames":
        """These names with `clusters`, and whatever they are merged with already, as one."""
        if len(set(clusters)) < max(2, len(clusters)):
            raise UserError(f"to merge {list(clusters)}: name two clusters or more, each once")
        joined = {member for cluster in clusters for member in self.group_of(cluster)}
        apart = [group for group in self.merge if joined.isdisjoint(group)]
        return replace(self, merge=tuple(sorted([*apart, tuple(sorted(joined))])))


def comparable(name: str) -> str:
    """Equal for names that a reader, or a file system, takes for the same."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


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
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or brackets
        raise UserError(f"not JSON ({error})") from None


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    keys = [key for key, _ in pairs]
    for key in keys:
        if keys.count(key) > 1:
            raise UserError(f'"{key}" is there twice: delete one of them')
    return dict(pairs)


def _from_content(content: object, clusters: int, classifier: str) -> ClusterNames:
    known = {"version", "clusters", "classifier", "names", "merge", "suggestions"}
    if not isinstance(content, dict) or not {"version", "clusters"} <= content.keys() <= known:
        raise UserError(f"expected an object with {', '.join(sorted(known))}")
    if content["version"] != VERSION:
        raise UserError(f"version {content['version']}, this program reads version {VERSION}")
    clusters = _clusters(content, clusters, classifier)
    names, merge = content.get("names", {}), content.get("merge", [])
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise UserError('"names" must be like {"3": "cat"}')
    if not isinstance(merge, list) or not all(_are_numbers(group) for group in merge):
        raise UserError('"merge" must be like [[3, 7]]')
    groups = tuple(sorted(tuple(sorted(group)) for group in merge))
    numbered = {_number("names", key): name for key, name in names.items()}
    suggestions = _suggestions(content.get("suggestions", {}))
    return ClusterNames(clusters, numbered, groups, classifier, suggestions)


def _clusters(content: dict, clusters: int, classifier: str) -> int:
    """How many clusters the file and the run speak of.

    Raises:
        UserError: where these are not the same.
    """
    told, maker = content["clusters"], content.get("classifier")
    # The same training with more clusters is one of which some have been split. It may also have
    # fewer than the run: when the split has been made since, or was learned and then taken back.
    is_same = maker and maker == classifier and type(told) is int
    if told != clusters and not (is_same and 2 <= told <= clusters + MOST_ADDED):
        raise UserError(
            f"made for {told} clusters, the run has {clusters} now: "
            "delete the file and name them again"
        )
    if classifier and (maker or classifier) != classifier:
        raise UserError(
            "made for an earlier training of scan.py, whose clusters had other numbers: delete the "
            "file and name them again"
        )
    return max(told, clusters)


def _suggestions(content: object) -> Suggestions:
    if not isinstance(content, dict) or not all(map(_are_words, content.values())):
        raise UserError('"suggestions" must be like {"3": [["rose", 0.62]]}')
    return {
        _number("suggestions", key): tuple((word, float(score)) for word, score in words)
        for key, words in content.items()
    }


def _are_words(words: object) -> bool:
    return isinstance(words, list) and all(
        isinstance(each, list)
        and len(each) == 2
        and isinstance(each[0], str)
        and type(each[1]) in (int, float)
        for each in words
    )


def _are_numbers(group: object) -> bool:
    return isinstance(group, list) and all(type(cluster) is int for cluster in group)


def _number(what: str, key: str) -> int:
    if not re.fullmatch(r"0|[1-9][0-9]{0,8}", key):
        raise UserError(f'"{what}": "{key}" is not the number of a cluster')
    return int(key)
