"""Image files of every kind: found, decoded to the right pixels, or refused with a reason."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src_py.images import files as image_files
from src_py.images.files import (
    fit_square,
    read_image,
    read_shorter_side,
    read_square,
    read_square_and_header,
    shrink,
)
from src_py.images.finding import find_images
from src_py.images.kinds import readable_extensions
from src_py.images.opening import UnreadableImage
from tests.messy import bomb

ROOT = Path(__file__).resolve().parent.parent


def colours(height: int = 6, width: int = 9, channels: int = 3) -> np.ndarray:
    """Smooth, asymmetric pixels: uint8 (height, width, channels)."""
    rows, columns = np.mgrid[:height, :width]
    planes = [(rows * (20 + 5 * c) + columns * (11 + 4 * c) + 30 * c) % 256 for c in range(4)]
    return np.stack(planes[:channels], -1).astype(np.uint8)


def save(path: Path, pixels: np.ndarray, **options) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


# --- finding -------------------------------------------------------------------------------------


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def found(root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in find_images(root)]


def test_finds_nested_images_of_any_case_sorted_and_nothing_else(tmp_path):
    names = ["B.JPG", "a b.png", "a/z.JpEg", "a/b/c.TIFF", "line\nbreak.gif", "ünïcödé/日本.webp"]
    touch(
        tmp_path, *names, "notes.txt", "jpg", ".hidden.png", ".git/x.png", "._B.JPG", "a/.x/y.png"
    )
    (tmp_path / "folder.jpg").mkdir()
    expected = sorted(names, key=lambda name: Path(name).parts)
    assert found(tmp_path) == expected


def test_finds_every_common_extension(tmp_path):
    extensions = "bmp dib gif jfif jpe jpeg jpg png tif tiff webp"
    names = [f"x.{extension}" for extension in extensions.split()]
    touch(tmp_path, *names)
    assert found(tmp_path) == names


def test_telephone_photos_are_found(tmp_path):
    touch(tmp_path, "x.HEIC", "y.heif")
    assert found(tmp_path) == ["x.HEIC", "y.heif"]


def test_links_are_followed_once_and_real_names_win(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    touch(root, "m/real.png", "z/other.png")
    touch(outside, "far.png")
    (root / "a_link").symlink_to(root / "z")
    (root / "m/loop").symlink_to(root)
    (root / "m/self").symlink_to(root / "m/self")
    (root / "out").symlink_to(outside)
    (root / "file.png").symlink_to(outside / "far.png")
    (root / "broken.png").symlink_to(root / "nowhere.png")
    assert found(root) == ["file.png", "m/real.png", "out/far.png", "z/other.png"]


def test_a_pipe_with_an_image_name_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    assert found(tmp_path) == []


def test_missing_and_unlistable_folders_are_tolerated(tmp_path, monkeypatch):
    assert find_images(tmp_path / "nowhere") == []
    touch(tmp_path, "open/x.png", "closed/y.png")
    scandir = os.scandir

    def refuse(folder):
        if Path(folder).name == "closed":
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)  # the tests may run as root, who may list anything
    assert found(tmp_path) == ["open/x.png"]


def test_names_that_are_not_utf8_are_found_and_read(tmp_path):
    path = os.path.join(os.fsencode(tmp_path), b"caf\xe9.png")
    try:
        with open(path, "wb") as file:
            Image.fromarray(colours()).save(file, "PNG")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    assert read_image(find_images(tmp_path)[0]).shape == (6, 9, 3)


# --- colour modes --------------------------------------------------------------------------------


@pytest.mark.parametrize("extension", ["png", "bmp", "dib", "tif", "gif", "webp"])
def test_lossless_formats_give_the_exact_pixels(tmp_path, extension):
    options = {"lossless": True} if extension == "webp" else {}
    path = save(tmp_path / f"x.{extension}", colours(), **options)
    pixels = read_image(path)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, colours())


@pytest.mark.parametrize("extension", ["jpg", "jpeg", "jpe", "jfif"])
def test_jpeg_gives_nearly_the_pixels(tmp_path, extension):
    path = save(tmp_path / f"x.{extension}", colours(), quality=100, subsampling=0)
    np.testing.assert_allclose(read_image(path).astype(int), colours(), atol=6)


@pytest.mark.skipif(".avif" not in readable_extensions(), reason="Pillow without AVIF")
def test_avif(tmp_path):
    path = save(tmp_path / "x.avif", colours(), quality=100, subsampling="4:4:4")
    assert find_images(tmp_path) == [path]
    np.testing.assert_allclose(read_image(path).astype(int), colours(), atol=6)


def test_grey_is_repeated_for_three_channels_and_kept_for_one(tmp_path):
    grey = colours()[..., 0]
    path = save(tmp_path / "x.png", grey)
    np.testing.assert_array_equal(read_image(path, 3), np.repeat(grey[..., None], 3, -1))
    np.testing.assert_array_equal(read_image(path, 1), grey[..., None])


def test_one_channel_of_a_colour_image_is_its_luminance(tmp_path):
    path = save(tmp_path / "x.png", colours())
    luminance = colours() @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(read_image(path, 1)[..., 0].astype(float), luminance, atol=0.51)


def test_one_bit(tmp_path):
    bits = colours()[..., 0] > 100
    path = save(tmp_path / "x.png", bits)
    assert Image.open(path).mode == "1"
    np.testing.assert_array_equal(read_image(path, 1)[..., 0], bits * np.uint8(255))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_composited_on_white(tmp_path, mode):
    alpha = np.linspace(0, 255, 54).reshape(6, 9).astype(np.uint8)
    colour = colours() if mode == "RGBA" else colours()[..., :1]
    path = save(tmp_path / "x.png", np.concatenate([colour, alpha[..., None]], -1))
    opacity = alpha[..., None] / 255
    expected = np.broadcast_to(colour * opacity + 255 * (1 - opacity), (6, 9, 3))
    np.testing.assert_allclose(read_image(path).astype(float), expected, atol=1)


def palette_image() -> Image.Image:
    """2 x 2 palette indices: black, red / green, blue."""
    image = Image.fromarray(np.array([[0, 1], [2, 3]], np.uint8), "P")
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    return image


@pytest.mark.parametrize("extension", ["png", "gif"])
@pytest.mark.parametrize("transparent", [False, True])
def test_palette_with_and_without_a_transparent_entry(tmp_path, extension, transparent):
    path = tmp_path / f"x.{extension}"
    palette_image().save(path, **({"transparency": 1} if transparent else {}))
    red = [255, 255, 255] if transparent else [255, 0, 0]
    np.testing.assert_array_equal(read_image(path), [[[0, 0, 0], red], [[0, 255, 0], [0, 0, 255]]])


def test_palette_with_partial_transparency(tmp_path):
    path = tmp_path / "x.png"
    palette_image().save(path, transparency=bytes([0, 128, 255, 255]))
    expected = [[[255, 255, 255], [255, 127, 127]], [[0, 255, 0], [0, 0, 255]]]
    np.testing.assert_allclose(read_image(path).astype(int), expected, atol=1)


def test_transparent_colour_without_an_alpha_channel(tmp_path):
    path = save(tmp_path / "x.png", colours(), transparency=tuple(map(int, colours()[0, 0])))
    expected = colours()
    expected[0, 0] = 255
    np.testing.assert_array_equal(read_image(path), expected)


@pytest.mark.parametrize("extension", ["jpg", "tif"])
def test_cmyk(tmp_path, extension):
    ink = np.zeros((16, 16, 4), np.uint8)
    ink[..., 0] = 255  # cyan alone
    path = tmp_path / f"x.{extension}"
    Image.fromarray(ink, "CMYK").save(path)
    np.testing.assert_allclose(read_image(path)[8, 8].astype(int), [0, 255, 255], atol=3)


ALL_16_BIT = np.arange(65536, dtype=np.uint16).reshape(256, 256)


@pytest.mark.parametrize(
    ("extension", "dtype", "mode"),
    [("png", "<u2", "I;16"), ("tif", "<u2", "I;16"), ("tif", ">u2", "I;16B"), ("tif", "<i4", "I")],
)
def test_16_bit_grey_is_scaled_exactly(tmp_path, extension, dtype, mode):
    path = save(tmp_path / f"x.{extension}", ALL_16_BIT.astype(dtype))
    assert Image.open(path).mode == mode
    expected = (ALL_16_BIT.astype(int) + 128) // 257
    np.testing.assert_array_equal(read_image(path, 1)[..., 0], expected)
    np.testing.assert_array_equal(read_image(path, 3)[..., 2], expected)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 100.0, 255.0], [0, 100, 255]),
        ([0.0, 257.0, 65535.0], [0, 1, 255]),
        ([-1.0, 0.0, 1.0], [0, 128, 255]),
        ([0.0, 5e5, 1e6], [0, 128, 255]),
        ([-2.0, -2.0, -2.0], [0, 0, 0]),
        ([np.nan, 0.0, 1.0], [0, 0, 255]),
    ],
)
def test_float_grey_is_scaled_by_its_range(tmp_path, values, expected):
    path = save(tmp_path / "x.tif", np.array([values], np.float32))
    np.testing.assert_array_equal(read_image(path, 1)[0, :, 0], expected)


def test_32_bit_integers_beyond_16_bits_are_stretched(tmp_path):
    path = save(tmp_path / "x.tif", np.array([[0, 500_000, 1_000_000]], np.int32))
    np.testing.assert_array_equal(read_image(path, 1)[0, :, 0], [0, 128, 255])


@pytest.mark.parametrize("mode", ["YCbCr", "LAB"])
def test_other_colour_spaces_become_rgb(tmp_path, mode):
    path = tmp_path / "x.tif"
    Image.new(mode, (8, 8), (200, 128, 128)).save(path)
    red, green, blue = read_image(path)[4, 4].astype(int)
    assert red > 150 and abs(red - green) < 8 and abs(green - blue) < 8  # a light grey


# --- orientation and frames ----------------------------------------------------------------------

UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("extension", ["png", "tif", "webp"])
def test_exif_orientation(tmp_path, orientation, extension):
    exif = Image.Exif()
    exif[274] = orientation
    options = {"lossless": True} if extension == "webp" else {}
    path = save(tmp_path / f"x.{extension}", colours(), exif=exif, **options)
    np.testing.assert_array_equal(read_image(path), UPRIGHT[orientation](colours()))


def test_exif_orientation_of_16_bit_and_of_jpeg_squares(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    wide = np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000
    path = save(tmp_path / "x.png", wide, exif=exif)
    np.testing.assert_array_equal(read_image(path, 1)[..., 0], np.rot90((wide + 128) // 257, -1))
    halves = np.zeros((80, 80, 3), np.uint8)
    halves[:40] = 255  # white on top; turned by 90 degrees clockwise it is on the right
    square = read_square(save(tmp_path / "x.jpg", halves, exif=exif), 8, 3)
    assert square[:, 6:].mean() > 250 and square[:, :2].mean() < 5


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_telephone_photos_are_turned_upright_once(tmp_path, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    quarters = np.kron([[0, 80], [160, 255]], np.ones((32, 48))).astype(np.uint8)
    pixels = np.repeat(quarters[..., None], 3, -1)
    # As bytes, so that the file is turned as telephones do it: in HEIC's own way, and EXIF's too.
    path = save(tmp_path / "x.heic", pixels, exif=exif.tobytes(), quality=100)
    expected = UPRIGHT[orientation](pixels)
    assert read_image(path).shape == expected.shape
    np.testing.assert_allclose(
        read_image(path)[8::16, 8::16].astype(int), expected[8::16, 8::16], atol=6
    )


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_leaves_the_pixels_readable(tmp_path):
    path = save(tmp_path / "x.jpg", colours(), exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff rubbish")
    assert read_image(path).shape == (6, 9, 3)


@pytest.mark.parametrize("extension", ["gif", "tif", "webp", "png"])
def test_the_first_of_several_frames_is_read(tmp_path, extension):
    frames = [Image.new("RGB", (9, 6), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if extension == "webp" else {}
    path = tmp_path / f"x.{extension}"
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)
    assert Image.open(path).n_frames == 3
    np.testing.assert_array_equal(read_image(path), np.full((6, 9, 3), [255, 0, 0]))


def test_a_wrong_extension_does_not_matter(tmp_path):
    path = save(tmp_path / "x.jpg", colours(), format="PNG")
    np.testing.assert_array_equal(read_image(path), colours())


# --- unreadable files ----------------------------------------------------------------------------


def reason(path: Path) -> str:
    """Why read_image refuses `path`; every reader has to agree."""
    with pytest.raises(UnreadableImage) as error:
        read_image(path)
    with pytest.raises(UnreadableImage) as square_error:
        read_square(path, 8, 3)
    assert str(error.value) == str(square_error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_empty_text_and_missing_files(tmp_path):
    empty, text = tmp_path / "empty.jpg", tmp_path / "text.jpg"
    empty.touch()
    text.write_text("not\nan image")
    assert reason(empty) == "empty file"
    assert reason(text) == "not an image, or of a kind that Pillow cannot read"
    assert reason(tmp_path / "gone.jpg") == "No such file or directory"
    assert reason(tmp_path) == "Is a directory"


@pytest.mark.parametrize("extension", ["jpg", "png", "bmp", "tif", "gif", "webp"])
@pytest.mark.parametrize("part", [0.05, 0.5, 0.9])
def test_truncated_files(tmp_path, extension, part):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = save(tmp_path / f"x.{extension}", noise)
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    assert reason(path)


def test_random_damage_never_raises_anything_else(tmp_path):
    rng = np.random.default_rng(0)
    for extension in ("jpg", "png", "bmp", "tif", "gif", "webp"):
        path = save(tmp_path / f"x.{extension}", colours(24, 24))
        content = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(40):
            damaged = content.copy()
            damaged[rng.integers(0, len(content), 4)] = rng.integers(0, 256, 4)
            path.write_bytes(damaged.tobytes())
            try:
                assert read_square(path, 8, 3).shape == (8, 8, 3)
            except UnreadableImage as error:
                assert "\n" not in str(error)


def test_decompression_bomb(tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb())
    assert reason(path) == "more than 178 megapixels"


def test_formats_that_run_other_programs_are_refused(tmp_path):
    path = tmp_path / "x.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    assert "not an image" in reason(path)


def test_a_heic_file_that_was_cut_off_is_unreadable(tmp_path):
    path = tmp_path / "x.HEIC"
    path.write_bytes(b"\0\0\0\x18ftypheic")
    assert reason(path)


def test_pillow_warnings_do_not_reach_the_terminal(tmp_path):
    path = tmp_path / "x.png"
    palette_image().save(path, transparency=bytes([0, 128, 255, 255]))
    code = (
        "import pathlib, sys; from src_py.images.files import read_image;"
        "read_image(pathlib.Path(sys.argv[1]))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True, text=True
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


# --- squares -------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_of_the_right_size_keeps_its_pixels(tmp_path, channels):
    path = save(tmp_path / "x.jpg", colours(16, 16), quality=90)
    square = read_square(path, 16, channels)
    np.testing.assert_array_equal(square, read_image(path, channels))


def test_only_the_centre_is_kept(tmp_path):
    pixels = colours(16, 27)
    square = read_square(save(tmp_path / "x.png", pixels), 16, 3)
    np.testing.assert_array_equal(square, pixels[:, 5:21])
    square = read_square(save(tmp_path / "y.png", pixels.swapaxes(0, 1)), 16, 3)
    np.testing.assert_array_equal(square, pixels[:, 5:21].swapaxes(0, 1))


def test_reduction_averages_instead_of_skipping(tmp_path):
    checks = (np.indices((640, 640)).sum(0) % 2 * 255).astype(np.uint8)
    square = read_square(save(tmp_path / "x.png", checks), 16, 1)
    np.testing.assert_allclose(square[1:-1, 1:-1].astype(int), 127, atol=2)


def test_large_jpegs_are_reduced_while_decoding_with_the_same_result(tmp_path):
    pixels = np.asarray(
        Image.fromarray(colours(24, 40)).resize((800, 480), Image.Resampling.BICUBIC)
    )
    path = save(tmp_path / "x.jpg", pixels, quality=95)
    reduced, header = image_files._decode(path, 3, at_least=64)
    assert (reduced.size, header) == ((200, 120), (800, 480, "RGB"))
    fast = read_square(path, 32, 3).astype(int)
    slow = fit_square(Image.fromarray(read_image(path)), 32).astype(int)
    assert np.abs(fast - slow).mean() < 2 and np.abs(fast - slow).max() < 24


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 50), (50, 1), (1, 4000), (3, 2)])
@pytest.mark.parametrize("channels", [1, 3])
def test_thin_images(tmp_path, height, width, channels):
    path = save(tmp_path / "x.png", np.full((height, width, 3), 77, np.uint8))
    square = read_square(path, 32, channels)
    np.testing.assert_array_equal(square, np.full((32, 32, channels), 77))


def test_shorter_side_comes_from_the_header_alone(tmp_path):
    path = save(tmp_path / "x.png", colours(40, 70))
    path.write_bytes(path.read_bytes()[:60])  # no pixels left
    assert read_shorter_side(path) == 40
    path.write_bytes(b"")
    with pytest.raises(UnreadableImage, match="empty file"):
        read_shorter_side(path)


def test_the_header_tells_what_was_stored(tmp_path):
    path = tmp_path / "x.png"
    palette_image().save(path)
    square, header = read_square_and_header(path, 4, 1)
    assert square.shape == (4, 4, 1) and header == (2, 2, "P")


@pytest.mark.parametrize("channels", [1, 3])
def test_shrinking_averages_equal_parts(channels):
    square = np.random.default_rng(0).integers(0, 256, (24, 24, channels), dtype=np.uint8)
    means = square.reshape(8, 3, 8, 3, channels).mean((1, 3))
    np.testing.assert_allclose(shrink(square, 8).astype(float), means, atol=1)
    np.testing.assert_array_equal(shrink(square, 24), square)
