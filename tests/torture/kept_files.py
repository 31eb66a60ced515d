"""Flipped bits in kept files, and other files in their place: noticed, or without effect."""

import functools
import io
import json
import os
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from tests.torture.base import (
    HELD,
    PREDICT,
    STAGES,
    Fault,
    Outcome,
    Verdict,
    content_of,
    copied,
    run,
)

AGAIN = ("--restart",)
# Each kept file, who reads it next, and what it makes of it.
READERS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "data.json": ("extract_features", STAGES["extract_features"], "ckp/mine/features.npy"),
    "simclr.json": ("extract_features", STAGES["extract_features"], "ckp/mine/features.npy"),
    "pretext.pt": ("extract_features", STAGES["extract_features"], "ckp/mine/features.npy"),
    "images-train.npy": ("extract_features", STAGES["extract_features"], "ckp/mine/features.npy"),
    "images-train.json": ("extract_features", STAGES["extract_features"], "ckp/mine/features.npy"),
    "images-train-facts.npy": (
        "extract_features", STAGES["extract_features"], "ckp/mine/features.npy",
    ),
    "images-train-names.npy": (
        "extract_features", STAGES["extract_features"], "ckp/mine/features.npy",
    ),
    "features.npy": ("scan", STAGES["scan"] + AGAIN, "ckp/mine/scan.pt"),
    "neighbors.npy": ("scan", STAGES["scan"] + AGAIN, "ckp/mine/scan.pt"),
    "rows.csv": ("scan", STAGES["scan"] + AGAIN, "ckp/mine/scan.pt"),
    "extract_features.json": ("scan", STAGES["scan"] + AGAIN, "ckp/mine/scan.pt"),
    "scan.pt": ("selflabel", STAGES["selflabel"] + AGAIN, "ckp/mine/selflabel.pt"),
    "scan.json": ("selflabel", STAGES["selflabel"] + AGAIN, "ckp/mine/selflabel.pt"),
    "selflabel.pt": ("predict", PREDICT, "out/predictions.csv"),
    "selflabel.json": ("predict", PREDICT, "out/predictions.csv"),
}  # fmt: skip
# What a person may edit: any change may be meant, so only how it is read is judged.
EDITED = {
    "labels.json": ("predict", PREDICT),
    "corrections.csv": ("predict", PREDICT),
}


def flip(base: Path, folder: Path, number: int) -> Verdict:
    """One bit of one kept file."""
    drawn = random.Random(f"flip {number}")
    name = drawn.choice(list(READERS))
    path = copied(base, folder) / "ckp" / "mine" / name
    content = bytearray(path.read_bytes())
    bit = drawn.randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    _replace(path, bytes(content))
    return _judge(base, folder, name, f"bit {bit} of {name} flipped")


def damage(base: Path, folder: Path, number: int) -> Verdict:
    """Something else in the place of one kept file."""
    drawn = random.Random(f"damage {number}")
    name = drawn.choice([*READERS, *EDITED])
    path = copied(base, folder) / "ckp" / "mine" / name
    kind = drawn.choice(list(DAMAGES))
    DAMAGES[kind](path, drawn)
    return _judge(base, folder, name, f"{name} {kind}")


def _judge(base: Path, folder: Path, name: str, words: str) -> Verdict:
    if name in EDITED:
        run(folder, *_flat(EDITED[name]))
        return HELD
    script, arguments, result = READERS[name]
    try:
        done = run(folder, script, *arguments)
    except Fault as fault:
        raise Fault(fault.verdict.outcome, f"{words}: {fault}") from None
    same = content_of(folder / result) == content_of(base / result)
    if done.returncode == 0 and not same:
        raise Fault(Outcome.SILENT, f"{words}: {script}.py makes another {result}: {done.stdout}")
    return HELD


def _flat(reader: tuple[str, tuple[str, ...]]) -> tuple[str, ...]:
    return (reader[0], *reader[1])


def _replace(path: Path, content: bytes) -> None:
    """Other bytes, and the times of before: whoever goes by these must not be deceived."""
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns) if path.exists() else None
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    if times:
        os.utime(path, ns=times)


def _truncate(path: Path, drawn: random.Random) -> None:
    content = path.read_bytes() if path.exists() else b"path,cluster\n"
    _replace(path, content[: drawn.randrange(len(content))])


def _grow(path: Path, drawn: random.Random) -> None:
    content = path.read_bytes() if path.exists() else b""
    _replace(path, content + drawn.randbytes(drawn.randint(1, 100)))


def _become_folder(path: Path, drawn: random.Random) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def _become_link(path: Path, drawn: random.Random) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(drawn.choice([path.name, "/nowhere"]))


def _wrong_json(path: Path, drawn: random.Random) -> None:
    """Of the right form here and there, of the wrong kind in one place."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError):
        content = {"settings": {}, "config": {}}
    place = content
    while isinstance(place, dict) and place:
        key = drawn.choice(list(place))
        if not isinstance(place[key], dict) or drawn.random() < 0.4:
            place[key] = drawn.choice([None, -1, 10**30, "x", [], {}, [[]], True, 1e308, "\x00"])
            break
        place = place[key]
    _replace(path, json.dumps(content).encode())


def _claiming_header(path: Path, drawn: random.Random) -> None:
    shape = drawn.choice([(10**14,), (10**9, 10**9), (40, 10**12), (0, 5), (-1,), (40, 5, 1)])
    kind = drawn.choice(["<f4", "<i8", "|O", "<U9", "<f8", "|S5"])
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"
    text = header.ljust(117) + "\n"
    _replace(
        path, b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + bytes(64)
    )


def _hostile_pickle(path: Path, drawn: random.Random) -> None:
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(path.parent / "HACKED"),))

    buffer = io.BytesIO()
    if drawn.random() < 0.5:
        torch.save({"format": 3, "weights": Evil()}, buffer)
    else:
        pickle.dump(Evil(), buffer)
    _replace(path, buffer.getvalue())


def _other_tensors(path: Path, drawn: random.Random) -> None:
    """A checkpoint of this program with names, shapes or sizes that no run has."""
    stored = {"format": 3, "weights": {}}
    if path.suffix == ".pt":
        stored = torch.load(path, map_location="cpu", weights_only=True)
    weights = stored["weights"]
    if weights:
        name = drawn.choice(list(weights))
        tensor = weights.pop(name)
        weights[drawn.choice([name, name + "x"])] = drawn.choice(
            [tensor.reshape(-1)[:1], tensor.double() * float("nan"), torch.zeros(()), tensor.int()]
        )
    for key in drawn.sample(sorted(set(stored) - {"weights"}), min(1, len(stored) - 1)):
        stored[key] = drawn.choice([None, 10**9, -1, "x", {}, [], stored[key]])
    buffer = io.BytesIO()
    torch.save(stored, buffer)
    _replace(path, buffer.getvalue())


def _zip_bomb(path: Path, drawn: random.Random) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**7))
    _replace(path, buffer.getvalue())


def _other_array(path: Path, drawn: random.Random) -> None:
    shape = drawn.choice([(40, 5), (39, 32), (40, 32), (40,), (0,)])
    buffer = io.BytesIO()
    np.save(buffer, drawn.choice([np.zeros(shape), np.full(shape, 10**6), np.full(shape, np.nan)]))
    _replace(path, buffer.getvalue())


def _constant(content: bytes) -> Callable[[Path, random.Random], None]:
    return functools.partial(_write_constant, content)


def _write_constant(content: bytes, path: Path, drawn: random.Random) -> None:
    _replace(path, content)


DAMAGES: dict[str, Callable[[Path, random.Random], None]] = {
    "is empty": _constant(b""),
    "is cut short": _truncate,
    "has bytes at its end": _grow,
    "is noise": lambda path, drawn: _replace(path, drawn.randbytes(300)),
    "is zeros": _constant(bytes(4096)),
    "is a list": _constant(b"[]"),
    "is an empty object": _constant(b"{}"),
    "is null": _constant(b"null"),
    "is nested deeply": _constant(b"[" * 100_000),
    "is a number of many digits": _constant(b"9" * 5000),
    "is other JSON": _wrong_json,
    "is a folder": _become_folder,
    "is a link that leads nowhere": _become_link,
    "has a header that claims much": _claiming_header,
    "is a hostile pickle": _hostile_pickle,
    "is a checkpoint with other tensors": _other_tensors,
    "is another archive": _zip_bomb,
    "is another array": _other_array,
    "is UTF-16": _constant('{"names": {}}'.encode("utf-16")),
}
