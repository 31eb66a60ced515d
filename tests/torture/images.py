"""Odd and hostile images: each is classified or listed, and what Pillow opens whole is read."""

import csv
import io
import random
from pathlib import Path

import numpy as np
from PIL import Image

from tests.messy import bomb, make_messy_folder, picture
from tests.torture.base import HELD, RUN, Fault, Outcome, Verdict, copied, run

AT_ONCE = 30  # images a trial
FORMATS = {
    "PNG": (".png", ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
    "JPEG": (".jpg", ("L", "RGB", "CMYK")),
    "GIF": (".gif", ("1", "L", "P", "RGB", "RGBA")),
    "BMP": (".bmp", ("1", "L", "P", "RGB", "RGBA")),
    "TIFF": (".tif", ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F")),
    "WEBP": (".webp", ("RGB", "RGBA", "L")),
    "PPM": (".ppm", ("1", "L", "RGB", "I")),
    "TGA": (".tga", ("1", "L", "LA", "P", "RGB", "RGBA")),
    "JPEG2000": (".jp2", ("L", "RGB", "RGBA")),
}


def trial(base: Path, folder: Path, number: int) -> Verdict:
    """A folder of such images, classified in one go."""
    drawn = random.Random(f"image {number}")
    folder = copied(base, folder)
    odd = folder / "odd"
    whole: set[str] = set()
    if number % 5 == 0:
        make_messy_folder(odd, images=12)
    else:
        odd.mkdir()
        for index in range(AT_ONCE):
            name, content, is_whole = _image(drawn)
            path = odd / f"{index:02d}{name}"
            path.write_bytes(content)
            if is_whole:
                whole.add(str(path.relative_to(folder)))
    before = sorted(path for path in odd.rglob("*") if path.is_file())
    run(folder, "predict", *RUN, "odd", "--out", "odd-out", "--device", "cpu", "--gallery")
    predicted, skipped = (_paths(folder / "odd-out" / f"{name}.csv") for name in NAMES)
    if twice := predicted & skipped:
        raise Fault(Outcome.SILENT, f"images {number}: read and not: {sorted(twice)}")
    if unread := whole - predicted:
        raise Fault(Outcome.SILENT, f"images {number}: sound, but not read: {sorted(unread)}")
    if number % 5 and (gone := {str(p.relative_to(folder)) for p in before} - predicted - skipped):
        raise Fault(Outcome.SILENT, f"images {number}: neither read nor listed: {sorted(gone)}")
    return HELD


NAMES = ("predictions", "skipped")


def _paths(table: Path) -> set[str]:
    if not table.exists():
        return set()
    with table.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return {row["path"] for row in csv.DictReader(file)}


def _image(drawn: random.Random) -> tuple[str, bytes, bool]:
    """An ending, the bytes of a file, and whether it is sound."""
    kind = drawn.choice(list(FORMATS))
    suffix, modes = FORMATS[kind]
    content = _encode(_picture(drawn, drawn.choice(modes)), kind, drawn)
    what = drawn.choice(["sound", "sound", "flipped", "cut", "noise", "bomb", "misnamed"])
    if what == "sound":
        return suffix, content, True
    if what == "flipped":
        damaged = bytearray(content)
        for _ in range(drawn.randint(1, 20)):
            damaged[drawn.randrange(len(damaged))] = drawn.randrange(256)
        return suffix, bytes(damaged), False
    if what == "cut":
        return suffix, content[: drawn.randrange(len(content))], False
    if what == "noise":
        return suffix, content[:12] + drawn.randbytes(200), False
    if what == "bomb":
        return ".png", bomb(drawn.choice([20_000, 60_000, 2**31 - 1])), False
    other = drawn.choice([ending for ending, _ in FORMATS.values()])
    return other, content, kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP")


def _picture(drawn: random.Random, mode: str) -> Image.Image:
    width, height = (drawn.choice([1, 2, 7, 16, 33, 200]) for _ in range(2))
    image = picture(drawn.randrange(1000), max(width, 2), max(height, 2))
    grey = np.asarray(image.convert("L"))
    if mode == "I;16":
        top = drawn.choice([255, 1023, 4095, 65535])
        return Image.fromarray((grey.astype(np.float32) / 255 * top).astype(np.uint16))
    if mode == "I":
        return Image.fromarray(grey.astype(np.int32) * drawn.choice([1, 16, 257]))
    if mode == "F":
        values = grey.astype(np.float32) * drawn.choice([1 / 255, 1.02 / 255, 1.0, 40.0])
        if drawn.random() < 0.5:
            values[0, 0] = drawn.choice([np.nan, np.inf, -9999.0, 3.4e38])
        return Image.fromarray(values)
    return image.convert("RGB").convert(mode) if mode != "P" else image.quantize(16)


def _encode(image: Image.Image, kind: str, drawn: random.Random) -> bytes:
    buffer = io.BytesIO()
    options = (
        {"exif": drawn.randbytes(40)} if kind in ("JPEG", "WEBP") and drawn.random() < 0.3 else {}
    )
    image.save(buffer, kind, **options)
    return buffer.getvalue()
