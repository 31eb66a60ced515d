"""What viewers show is read, what is damaged is said, and memory does not grow with cores."""

import io
import struct
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from src_py.images import files as image_files
from src_py.images.decoding import decode_in_threads
from src_py.images.files import read_format, read_image, read_shorter_side, read_square
from src_py.images.memory import ByteBudget
from src_py.images.opening import UnreadableImage
from tests.messy import bomb, picture

END = b"\xff\xd9"


def reason(path: Path) -> str:
    with pytest.raises(UnreadableImage) as error:
        read_image(path)
    return str(error.value)


def jpeg(image: Image.Image | None = None, **options) -> bytes:
    file = io.BytesIO()
    (image or picture(1, 160, 120)).save(file, "JPEG", **options)
    return file.getvalue()


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


# --- PNG -----------------------------------------------------------------------------------------


def png(*extra: tuple[bytes, bytes], broken: bytes = b"") -> bytes:
    """A PNG with more chunks before its pixels; that of the kind `broken` has a wrong checksum."""
    file = io.BytesIO()
    picture(2).save(file, "PNG")
    content = file.getvalue()
    chunks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in extra
    ]
    content = content[:33] + b"".join(chunks) + content[33:]
    if broken:
        at = content.index(broken) + 4
        length = int.from_bytes(content[at - 8 : at - 4])
        content = content[: at + length] + b"\0\1\2\3" + content[at + length + 4 :]
    return content


LONG = zlib.compress(bytes(3 * 2**20))
VERY_LONG = zlib.compress(bytes(40 * 2**20))
BESIDE_PIXELS = {
    "text": png((b"zTXt", b"prompt\0\0" + LONG)),
    "very long text": png((b"zTXt", b"prompt\0\0" + VERY_LONG)),
    "many texts": png(*[(b"zTXt", b"prompt\0\0" + zlib.compress(bytes(15 * 2**20)))] * 6),
    "XMP": png((b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + LONG)),
    "profile": png((b"iCCP", b"icc\0\0" + LONG)),
    "checksum of a text": png((b"tEXt", b"a\0b"), broken=b"tEXt"),
    "checksum of the time": png((b"tIME", bytes(7)), broken=b"tIME"),
    "checksum of a private chunk": png((b"prVt", b"abc"), broken=b"prVt"),
    "malformed resolution": png((b"pHYs", b"\1")),
    "malformed gamma": png((b"gAMA", b"")),
}


@pytest.mark.parametrize("kind", BESIDE_PIXELS)
def test_what_stands_beside_the_pixels_of_a_png_does_not_matter(tmp_path, kind):
    path = written(tmp_path / "x.png", BESIDE_PIXELS[kind])
    np.testing.assert_array_equal(read_image(path), np.asarray(picture(2)))
    assert read_shorter_side(path) == 48 and read_format(path) == "PNG"


def test_a_wrong_checksum_of_a_critical_chunk_is_damage(tmp_path):
    assert reason(written(tmp_path / "x.png", png(broken=b"IHDR")))


def test_pillow_has_limits_for_texts_all_the_same():
    assert 2**20 < PngImagePlugin.MAX_TEXT_CHUNK <= PngImagePlugin.MAX_TEXT_MEMORY <= 2**26


def test_transparency_and_orientation_outlive_a_broken_text(tmp_path):
    file = io.BytesIO()
    image = Image.new("P", (4, 2), 1)
    image.putpalette([0, 0, 0, 255, 0, 0])
    exif = Image.Exif()
    exif[274] = 6
    image.save(file, "PNG", transparency=1, exif=exif)
    text = struct.pack(">I", 3) + b"tEXta\0b" + bytes(4)
    path = written(tmp_path / "x.png", file.getvalue()[:33] + text + file.getvalue()[33:])
    np.testing.assert_array_equal(read_image(path), np.full((4, 2, 3), 255))


# --- JPEG ----------------------------------------------------------------------------------------

ENCODINGS = {
    "baseline": {},
    "optimised": {"optimize": True},
    "whole chroma": {"subsampling": 0, "quality": 95},
    "restarts": {"restart_marker_rows": 1},
    "progressive": {"progressive": True},
    "grey": {"image": picture(1, 160, 120).convert("L")},
    "CMYK": {"image": picture(1, 160, 120).convert("CMYK")},
}


@pytest.mark.parametrize("kind", ENCODINGS)
def test_a_jpeg_without_its_end_marker_is_read(tmp_path, kind):
    content = jpeg(**ENCODINGS[kind])
    whole = read_image(written(tmp_path / "whole.jpg", content))
    for lost in (1, 2):
        path = written(tmp_path / "x.jpg", content[:-lost])
        np.testing.assert_array_equal(read_image(path), whole)
        np.testing.assert_array_equal(
            read_square(path, 8, 3), read_square(tmp_path / "whole.jpg", 8, 3)
        )


@pytest.mark.parametrize("kind", ENCODINGS)
@pytest.mark.parametrize("end", [b"", END, bytes(3000)])
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_a_jpeg_of_which_a_part_is_there_is_damaged(tmp_path, kind, end, share):
    content = jpeg(**ENCODINGS[kind])
    start = content.rindex(b"\xff\xda") if "progressive" not in kind else content.index(b"\xff\xda")
    cut = start + int(share * (len(content) - start))
    path = written(tmp_path / "x.jpg", content[:cut] + end)
    assert reason(path).startswith("damaged:")
    with pytest.raises(UnreadableImage, match="damaged:"):
        read_square(path, 8, 3)


@pytest.mark.parametrize("colour", [(128, 128, 128), (127, 127, 127)])
def test_a_picture_that_ends_in_grey_is_whole(tmp_path, colour):
    image = picture(1, 160, 120)
    image.paste(Image.new("RGB", (160, 70), colour), (0, 50))
    for size, after in ((160, b""), (16, b""), (160, bytes(500)), (160, b"a trailer")):
        path = written(tmp_path / "x.jpg", jpeg(image.resize((size, 120))) + after)
        assert read_image(path).shape == (120, size, 3)
    assert read_image(written(tmp_path / "x.jpg", jpeg(Image.new("RGB", (99, 99), colour)))).any()


def test_a_panorama_beyond_the_limit_is_read_at_an_eighth(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)
    monkeypatch.setattr(image_files, "PIXEL_LIMIT", 10_000)
    path = written(tmp_path / "x.jpg", jpeg())
    expected = np.asarray(picture(1, 160, 120).resize((20, 15))).astype(int)
    assert np.abs(read_image(path) - expected).mean() < 8
    assert read_square(path, 8, 3).shape == (8, 8, 3)
    assert read_shorter_side(path) == 120
    picture(1, 160, 120).save(tmp_path / "x.png")
    assert "megapixels" in reason(tmp_path / "x.png")


# --- other formats and reasons -------------------------------------------------------------------


@pytest.mark.parametrize("extension", ["tga", "jp2", "ppm", "ico"])
def test_a_wrong_name_of_a_rarer_kind_does_not_matter(tmp_path, extension):
    path = tmp_path / "x.jpg"
    picture(3, 48, 48).save(path, {"tga": "TGA", "jp2": "JPEG2000"}.get(extension, extension))
    assert np.abs(read_image(path).astype(int) - np.asarray(picture(3, 48, 48))).mean() < 8


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty file"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "PostScript"),
        (b"8BPS\0\1", "Photoshop"),
        (b"%PDF-1.7", "PDF"),
        (b"PK\3\4", "ZIP"),
        (b"<!DOCTYPE html><html>", "web page"),
        (bomb(), "more than 178 megapixels"),
        (jpeg()[:300], "damaged"),
    ],
)
def test_reasons_are_words(tmp_path, content, words):
    assert words in reason(written(tmp_path / "x.jpg", content))


@pytest.mark.parametrize("extension", ["png", "bmp", "tif", "gif", "webp", "jp2", "tga", "ppm"])
def test_a_cut_file_is_said_to_be_damaged_and_not_how_a_decoder_calls_it(tmp_path, extension):
    path = tmp_path / f"x.{extension}"
    picture(4, 99, 99).save(path)
    written(path, path.read_bytes()[: path.stat().st_size // 2])
    told = reason(path)
    assert told.startswith("damaged") and "decoder error" not in told


# --- memory --------------------------------------------------------------------------------------


class Watched(ByteBudget):
    """Notes how many bytes are held at a time, at the most, and by how many of the large."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.held = self.most = 0
        self.asked: list[int] = []
        self.together = 0
        self.lock = threading.Lock()

    def hold(self, wanted: int):
        budget = self

        class Held:
            def __enter__(self) -> None:
                self.inner = ByteBudget.hold(budget, wanted)
                self.inner.__enter__()
                with budget.lock:
                    budget.asked.append(wanted)
                    budget.held += wanted
                    budget.most = max(budget.most, budget.held)

            def __exit__(self, *error) -> None:
                with budget.lock:
                    budget.held -= wanted
                self.inner.__exit__(*error)

        return Held()


def test_threads_share_one_budget(tmp_path, monkeypatch):
    """Large images one at a time, small ones as many as there is room for, and all get through."""
    budget = Watched(200_000)
    monkeypatch.setattr(image_files, "budget", budget)
    monkeypatch.setattr("src_py.images.decoding.available_cores", lambda: 8)
    paths = []
    for number in range(24):
        side = 400 if number % 3 == 0 else 60
        paths.append(tmp_path / f"{number}.png")
        Image.new("RGBA", (side, side), (number, 0, 0, 128)).save(paths[-1])
    found = list(decode_in_threads(lambda path: read_square(path, 8, 3), paths))
    assert all(isinstance(square, np.ndarray) for square in found)
    largest = max(budget.asked)
    assert largest > budget.limit >= max(w for w in budget.asked if w != largest)
    assert budget.most <= largest and budget.held == 0


def test_the_budget_is_given_back_by_images_that_fail(tmp_path, monkeypatch):
    budget = Watched(200_000)
    monkeypatch.setattr(image_files, "budget", budget)
    path = tmp_path / "x.bmp"
    picture(5).save(path)
    written(path, path.read_bytes()[:2000])
    assert "damaged" in reason(path)
    assert budget.asked and budget.held == 0


def test_a_large_image_is_never_copied_whole(tmp_path, monkeypatch):
    """Not to remove transparency, nor to scale its numbers: parts of it at a time."""
    monkeypatch.setattr(image_files, "PART_PIXELS", 2000)
    monkeypatch.setattr(image_files, "LARGE_PIXELS", 10_000)
    sizes = []
    opaque = image_files._opaque

    def watched(image: Image.Image) -> Image.Image:
        sizes.append(image.width * image.height)
        return opaque(image)

    monkeypatch.setattr(image_files, "_opaque", watched)
    alpha = picture(6, 300, 200).convert("L")
    image = picture(7, 300, 200)
    image.putalpha(alpha)
    image.save(tmp_path / "rgba.png")
    Image.fromarray(np.asarray(alpha).astype(np.uint16) * 257).save(tmp_path / "deep.png")
    squares = [read_square(tmp_path / name, 16, 3) for name in ("rgba.png", "deep.png")]
    assert max(sizes) <= 300 * 8  # rows are whole
    monkeypatch.undo()
    for square, name in zip(squares, ("rgba.png", "deep.png"), strict=True):
        whole = read_square(tmp_path / name, 16, 3).astype(int)
        assert np.abs(square - whole).mean() < 3


def test_parts_give_the_same_pixels(tmp_path, monkeypatch):
    image = picture(7, 300, 200)
    image.putalpha(picture(6, 300, 200).convert("L"))
    image.save(tmp_path / "x.png")
    whole = read_image(tmp_path / "x.png")
    monkeypatch.setattr(image_files, "PART_PIXELS", 2000)
    np.testing.assert_array_equal(read_image(tmp_path / "x.png"), whole)
