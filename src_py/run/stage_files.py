"""What one training stage leaves in ckp/<run>/: a state to go on from, then what it has made.

scan.partial.json   how the training was begun, and the SHA-256 of its states
scan.partial.pt     the latest state
scan.json, scan.pt  of the last training that has ended; they stand until the next one ends
"""

import itertools
import json
import os
from pathlib import Path
from typing import Any

from src_py.run.checkpoints import load_checkpoint, save_checkpoint
from src_py.run.claim import Move, new, switch
from src_py.run.errors import UserError
from src_py.run.files import FREE_OPTIONS, RunFiles, settings_digest, sha256, write_record
from src_py.run.stages import LABELS_FILE, PRETEXTS

UNFINISHED = ("states", "data")  # of a record: of use only until the training has ended


class StageFiles:
    """
    Attributes:
        begun: how the training that goes on was begun; None where a new one begins.
        remembered: of the images, by a first stage alone.
    """

    def __init__(
        self, files: RunFiles, stage: str, made_from: dict[str, str], restart: bool
    ) -> None:
        """
        Args:
            made_from: the SHA-256 of the stage's inputs, by their names.
            restart: whether a new training begins, whatever there is.

        Raises:
            UserError: when a record or the state to go on from is damaged, or of another training,
                or the other first stage is not finished.
        """
        self.files, self.stage = files, stage
        self.remembered: dict[str, Any] | None = None
        self._record: dict[str, Any] = {"stage": stage, "made_from": made_from, "states": []}
        self.begun = None if restart else files.begun(stage)
        self.is_stale = self.begun is not None and self.begun["made_from"] != made_from
        if self.is_stale:
            self.begun = None
        self.begins_again = restart or self.is_stale
        if not self.begins_again:
            self._require_known_state()
        if not restart:
            self._require_no_other_begun()

    @property
    def output(self) -> Path:
        return self.files.output(self.stage)

    @property
    def is_resumable(self) -> bool:
        partial = self.files.partial(self.stage)
        return not self.begins_again and self._was_begun and partial.exists()

    @property
    def is_finished(self) -> bool:
        """
        Raises:
            UserError: when what the stage has made is damaged, or made by the other first stage.
        """
        if self.begins_again or self._was_begun or not self.output.exists():
            return False
        maker = self.files.maker(self.stage)
        if maker != self.stage:
            raise UserError(
                f"{self.output} was made by {maker}.py; add --restart to replace it, or choose "
                f"another --run"
            )
        self.files.made(self.output, self.stage)
        return True

    def require_same_options(self, options: dict[str, Any]) -> None:
        """
        Raises:
            UserError: when the stage was begun with others.
        """
        if self.begun is None or not (self._was_begun or self.output.exists()):
            return
        stored = self.begun["config"]
        changed = [
            f"--{name.replace('_', '-')} {stored[name]} (now {value})"
            for name, value in options.items()
            if name not in FREE_OPTIONS and value != stored.get(name, value)
        ]
        if changed:
            raise UserError(
                f"{self.stage} of run '{self.files.run}' was begun with {', '.join(changed)}; "
                f"add --restart to begin again, or choose another --run"
            )

    def begin(self, **told: object) -> None:
        """From here on this training is the one that goes on.

        Args:
            told: how it is begun, for its record.
        """
        files = self.files
        if self.is_resumable and self.begun is not None:
            self._record["states"] = self.begun["states"]
        else:
            files.partial(self.stage).unlink(missing_ok=True)
        for other in self._other_pretexts:
            files.partial(other).unlink(missing_ok=True)
            files.begun_config(other).unlink(missing_ok=True)
        minutes = (self.remembered or files.settled() or {}).get("minutes")
        self._record |= {**told, "run_minutes": minutes, "data": self.remembered}
        write_record(files.begun_config(self.stage), self._record)
        if self.remembered is not None and not self.output.exists():
            write_record(files.data, self.remembered)

    def store(self, content: dict) -> None:
        """Keeps a state to go on from."""
        path = self.files.partial(self.stage)
        save_checkpoint(new(path), content)
        # Until the new state has its place, the one before it is a state to go on from as well.
        self._record["states"] = [*self._record["states"][-1:], sha256(new(path))]
        write_record(self.files.begun_config(self.stage), self._record)
        os.replace(new(path), path)

    def state(self) -> dict:
        """What `store` has kept."""
        return load_checkpoint(self.files.partial(self.stage))

    def finish(self, content: dict, **facts: object) -> Path:
        """Puts the stage's checkpoint in the place of an earlier one, with all that goes with it.

        Args:
            facts: how the training ended, for its record.
        """
        files, path, config = self.files, self.output, self.files.config(self.stage)
        save_checkpoint(new(path), content)
        record = {name: value for name, value in self._record.items() if name not in UNFINISHED}
        record |= {"outputs": {path.name: sha256(new(path))}, **facts}
        record["settings"] = settings_digest(self.remembered or files.settled())
        write_record(new(config), record)
        moves, removed = self._set_aside() if self.stage == "scan" else ([], [])
        if self.remembered is not None:
            write_record(new(files.data), self.remembered)
            moves.append((new(files.data).name, files.data.name))
        moves += [(new(path).name, path.name), (new(config).name, config.name)]
        removed += [files.partial(self.stage).name, files.begun_config(self.stage).name]
        removed += [files.config(other).name for other in self._other_pretexts]
        switch(files, moves, removed)
        return path

    def _set_aside(self) -> tuple[list[Move], list[str]]:
        """What a person said of the clusters that are about to be replaced; what only a program
        said of them is removed."""
        moves: list[Move] = []
        removed = []
        for path in (self.files.checkpoints / LABELS_FILE, self.files.corrections):
            aside = place_aside(path)
            if aside is None:
                removed.append(path.name)
            else:
                moves.append((path.name, aside.name))
                print(f"{path} is about the clusters of an earlier training: it is {aside} now")
        return moves, removed

    @property
    def _was_begun(self) -> bool:
        """Whether there is a training that has not ended."""
        return self.files.begun_config(self.stage).exists()

    @property
    def _other_pretexts(self) -> set[str]:
        """Those whose place a first stage takes."""
        return set(PRETEXTS) - {self.stage} if self.stage in PRETEXTS else set()

    def _require_no_other_begun(self) -> None:
        for other in self._other_pretexts:
            if self.files.partial(other).exists():
                raise UserError(
                    f"run '{self.files.run}' has an unfinished {other}.py: go on with that, add "
                    f"--restart to replace it, or choose another --run"
                )

    def _require_known_state(self) -> None:
        path = self.files.partial(self.stage)
        known = (self.begun or {}).get("states", [])
        if path.exists() and sha256(path) not in known:
            raise UserError(
                f"{path} is damaged, or not of this training; {self.files.remedy(self.stage)}"
            )


def place_aside(path: Path) -> Path | None:
    """Where what was said of clusters is kept, out of the way of new ones; None where nothing was.

    Names that were only suggested are made again with the clusters, and replaced then.
    """
    if not path.exists() or _is_only_suggested(path):
        return None
    names = (f"{path.stem}.old{number or ''}{path.suffix}" for number in itertools.count())
    return next(aside for name in names if not (aside := path.with_name(name)).exists())


def _is_only_suggested(path: Path) -> bool:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError):  # corrections.csv, or what somebody has edited
        return False
    said = isinstance(content, dict) and (content.get("names") or content.get("merge"))
    return isinstance(content, dict) and "suggestions" in content and not said
