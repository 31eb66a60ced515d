"""A folder as people have them: good images among damaged, odd and misleading files."""

import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

LONG_NAME = "long " * 49 + ".png"  # 249 bytes; file systems take up to 255


@dataclass
class MessyFolder:
    """What a reader should make of the folder, as paths relative to it."""

    readable: list[str]  # in the order of the rows
    unreadable: list[str]
    left_out: list[str]  # pictures that are named and not opened
    exact: dict[str, str]  # byte for byte: path -> the same image earlier in the order
    near: dict[str, str]  # resized or encoded anew: path -> the same image earlier in the order


def picture(seed: int, width: int = 64, height: int = 48) -> Image.Image:
    """A smooth picture in colour, unlike that of any other seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def bomb(side: int = 60_000) -> bytes:
    """A PNG of a few hundred bytes that claims side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(999)))
    return b"\x89PNG\r\n\x1a\n" + chunks + chunk(b"IEND", b"")


def make_messy_folder(root: Path, images: int = 60) -> MessyFolder:
    """Fills `root` with `images` good pictures and some thirty kinds of trouble.

    Beside `root` lies root.name + '-outside', which a link leads to.
    """
    root = root.resolve()  # links must lead somewhere from inside it, too
    root.mkdir(parents=True)
    readable = _add_pictures(root, images) + _add_odd_images(root) + _add_odd_names(root)
    exact, near = _add_duplicates(root)
    unreadable = _add_damage(root)
    _add_what_is_no_image(root)
    readable += ["no extension", *_add_links(root)]
    (root / "read only").chmod(0o555)
    readable += [*exact, *near]
    return MessyFolder(
        sorted(readable, key=lambda name: Path(name).parts),
        sorted(unreadable),
        ["dangling.jpg", "drawing.psd", "itself.png", "pipe.jpg"],
        exact,
        near,
    )


def _add_pictures(root: Path, images: int) -> list[str]:
    folders = ("", "2021/summer/day 1", "2021/summer/Day 2", "read only", "folder.jpg", "ünï/日本")
    names = []
    for number in range(images):
        name = str(Path(folders[number % len(folders)], f"{number:05d}.jpg"))
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture(number, 40 + number % 50, 40 + number % 30).save(root / name)
        (root / name).chmod(0o444)
        names.append(name)
    return names


def _add_odd_images(root: Path) -> list[str]:
    """Readable images of every shape and kind of pixels."""
    folder = root / "odd"
    folder.mkdir()
    rotated = Image.Exif()
    rotated[274] = 6  # a quarter turn clockwise
    sixteen_bit = np.random.default_rng(7).integers(0, 65536, (40, 50), dtype=np.uint16)
    Image.new("RGB", (1, 1), "teal").save(folder / "1x1.png")
    picture(1001, 2000, 20).save(folder / "panorama.jpg")
    picture(1002, 3, 900).save(folder / "strip.png")
    Image.new("RGB", (6000, 4000), (70, 120, 40)).save(folder / "huge.jpg")
    Image.fromarray(sixteen_bit).save(folder / "16 bit.png")
    picture(1003).convert("CMYK").save(folder / "cmyk.jpg")
    picture(1004).quantize(16).save(folder / "palette.png", transparency=3)
    picture(1005).convert("L").convert("LA").save(folder / "grey alpha.png")
    picture(1006).convert("1").save(folder / "1 bit.tif")
    picture(1007).save(folder / "rotated.jpg", exif=rotated)
    frames = [picture(seed).quantize() for seed in (1008, 1009, 1010)]
    frames[0].save(folder / "animated.gif", save_all=True, append_images=frames[1:])
    picture(1011).save(folder / "a png.jpg", format="PNG")
    picture(1012).save(folder / "damaged exif.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff rubbish")
    return [f"odd/{path.name}" for path in folder.iterdir()]


def _add_odd_names(root: Path) -> list[str]:
    names = ["-leading dash.png", "--run.png", "😀 emoji.png", "UPPER.PNG", LONG_NAME]
    names += ["two  spaces .png", "semi;colon, comma 'quote\".png", "%20&?#[x]*.png", "dots...png"]
    for seed, name in enumerate(names):
        picture(2000 + seed).save(root / name)
    return names


def _add_duplicates(root: Path) -> tuple[dict[str, str], dict[str, str]]:
    folder = root / "z copies"
    folder.mkdir()
    original = root / "00000.jpg"
    (folder / "copy.jpg").write_bytes(original.read_bytes())
    (folder / "copy under another extension.png").write_bytes(original.read_bytes())
    with Image.open(original) as image:
        image.save(folder / "encoded anew.jpg", quality=60)
        image.resize((image.width * 3, image.height * 3)).save(folder / "larger.png")
    exact = ("copy.jpg", "copy under another extension.png")
    near = ("encoded anew.jpg", "larger.png")
    return (
        {f"z copies/{name}": "00000.jpg" for name in exact},
        {f"z copies/{name}": "00000.jpg" for name in near},
    )


def _add_damage(root: Path) -> list[str]:
    """Files with an image's name that cannot be decoded."""
    folder = root / "damaged"
    folder.mkdir()
    for extension in ("jpg", "png", "gif", "webp", "tif", "bmp"):
        path = folder / f"truncated.{extension}"
        picture(3000).save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    picture(3001).save(folder / "header only.jpg")
    (folder / "header only.jpg").write_bytes((folder / "header only.jpg").read_bytes()[:20])
    (folder / "zero bytes.jpg").touch()
    (folder / "zeros.png").write_bytes(bytes(5000))
    (folder / "text.jpg").write_text("a shopping list\n")
    (folder / "error page.png").write_text("<!DOCTYPE html><html><h1>404 Not Found</h1></html>")
    (folder / "bomb.png").write_bytes(bomb())
    (folder / "no pixels.tif").write_bytes(_tiff_without_pixels())
    (folder / "drawing.svg.png").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    return [f"damaged/{path.name}" for path in folder.iterdir()]


def _tiff_without_pixels() -> bytes:
    """A TIFF whose header says 0 x 0."""
    tags = ((256, 0), (257, 0), (258, 8), (259, 1), (262, 1), (273, 8), (278, 1), (279, 0))
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)


def _add_what_is_no_image(root: Path) -> None:
    """Files that are no pictures, or hidden; and a picture that only its content tells."""
    (root / "notes.txt").write_text("not an image, and does not claim it")
    (root / "drawing.psd").write_bytes(b"8BPS")
    (root / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (root / "._00000.jpg").write_bytes(b"\0\5\x16\7")  # macOS resource fork
    (root / ".thumbnails").mkdir()
    picture(4000).save(root / ".thumbnails" / "hidden.png")
    picture(4001).save(root / "no extension", format="PNG")
    (root / "empty folder.png").mkdir()
    os.mkfifo(root / "pipe.jpg")


def _add_links(root: Path) -> list[str]:
    """Links to a file, to a folder, to nowhere, and in circles; the names of what they add."""
    outside = root.with_name(f"{root.name}-outside")
    (outside / "album").mkdir(parents=True)
    picture(5000).save(outside / "linked.png")
    picture(5001).save(outside / "album" / "photo.png")
    (root / "link.png").symlink_to(outside / "linked.png")
    (root / "album").symlink_to(outside / "album")
    (root / "dangling.jpg").symlink_to(root / "nowhere.jpg")
    (root / "loop").symlink_to(root)
    (root / "itself.png").symlink_to(root / "itself.png")
    return ["link.png", "album/photo.png"]
