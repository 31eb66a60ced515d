"""Images whose numbers use a part of their type look as if they used all of it."""

import csv
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src_py.datasets import load_images
from src_py.images.files import read_image, read_square
from src_py.images.opening import UnreadableImage
from src_py.images.ranges import (
    COLOUR,
    FLOAT,
    INTEGER,
    RangeFinder,
    no_values,
    own_range,
    stored_range,
    to_8_bit,
)
from tests.conftest import TINY

NO_DATA = [-9999, -32768, np.finfo(np.float32).min, np.finfo(np.float32).max, np.nan, np.inf, 1e20]


def picture(number: int = 0, side: int = 24) -> np.ndarray:
    """A bright disc before a slope, of values in [0, 1]: float64 (side, side)."""
    rows, columns = np.mgrid[:side, :side] / (side - 1)
    random = np.random.default_rng(number)
    row, column = random.uniform(0.3, 0.7, 2)
    disc = np.hypot(rows - row, columns - column) < random.uniform(0.15, 0.3)
    return np.where(disc, 1.0, 0.7 * rows * random.uniform(0.5, 1))


def save_all(folder: Path, values, suffix: str = "png", count: int = 10) -> Path:
    """One file for each of `count` pictures; `values` makes an array to be saved of each."""
    folder.mkdir()
    for number in range(count):
        Image.fromarray(values(picture(number))).save(folder / f"{number}.{suffix}")
    return folder


def squares(folder: Path, **options) -> np.ndarray:
    """(N, S, S) uint8 of a folder."""
    loaded = load_images("folder", folder, "train", 24, 1, **options)
    return loaded.images[:, 0].numpy().astype(int)


def in_bits(bits: int, dtype: type = np.uint16):
    return lambda values: np.rint(values * (2**bits - 1)).astype(dtype)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14])
def test_a_folder_that_uses_fewer_bits_looks_like_one_that_uses_all(tmp_path, bits, suffix):
    whole = squares(save_all(tmp_path / "whole", in_bits(16), suffix))
    part = squares(save_all(tmp_path / "part", in_bits(bits), suffix))
    np.testing.assert_allclose(part, whole, atol=1)
    assert whole.max() == 255


@pytest.mark.parametrize(
    ("values", "suffix"),
    [
        (lambda v: np.rint(v * 4095).astype(np.int32), "tif"),
        (lambda v: np.rint(v * 4095).astype(">u2"), "tif"),
        (lambda v: np.rint(v * 2e9).astype(np.int32), "tif"),
        (lambda v: np.rint(v * 4095).astype(np.int32) + 30_000, "tif"),  # an offset
        (lambda v: (v * 1.02).astype(np.float32), "tif"),
        (lambda v: (v * 260).astype(np.float32), "tif"),
        (lambda v: (v * 1e4 + 2e4).astype(np.float32), "tif"),
        (lambda v: (v * 1e-6).astype(np.float32), "tif"),
    ],
)
def test_units_do_not_matter(tmp_path, values, suffix):
    whole = squares(save_all(tmp_path / "whole", in_bits(16)))
    other = squares(save_all(tmp_path / "other", values, suffix))
    np.testing.assert_allclose(other, whole, atol=1)


@pytest.mark.parametrize("no_data", NO_DATA)
def test_what_stands_for_no_value_does_not_count_and_is_dark(tmp_path, no_data):
    def values(picture: np.ndarray) -> np.ndarray:
        picture = picture.astype(np.float32)
        picture[:5, :9] = no_data
        return picture

    whole = squares(save_all(tmp_path / "whole", in_bits(16)))
    other = squares(save_all(tmp_path / "other", values, "tif"))
    assert (other[:, :5, :9] == 0).all()
    np.testing.assert_allclose(other[:, 6:], whole[:, 6:], atol=1)


def test_images_without_any_value_leave_the_range_of_the_others(tmp_path):
    def heights(picture: np.ndarray) -> np.ndarray:
        return (picture * 300).astype(np.float32)

    alone = squares(save_all(tmp_path / "alone", heights, "tif"))
    folder = save_all(tmp_path / "mixed", heights, "tif")
    for number in range(4):
        Image.fromarray(np.full((24, 24), -9999, np.float32)).save(folder / f"x{number}.tif")
    mixed = squares(folder)
    np.testing.assert_array_equal(mixed[:10], alone)
    assert (mixed[10:] == 0).all()


def test_signed_heights_with_no_data(tmp_path):
    heights = (picture() * 800).astype(np.int16)
    heights[0] = -9999
    path = tmp_path / "x.tif"
    Image.fromarray(heights.astype(np.int32)).save(path)
    pixels = read_image(path, 1)[..., 0]
    assert (pixels[0] == 0).all() and pixels.max() == 255 and 20 < pixels[12].mean() < 235


def test_a_number_that_the_file_declares_to_be_none(tmp_path):
    heights = np.rint(picture() * 3000).astype(np.uint16)
    heights[:3] = 65535
    Image.fromarray(heights).save(tmp_path / "x.tif", tiffinfo={42113: "65535"})
    pixels = read_image(tmp_path / "x.tif", 1)[..., 0]
    assert (pixels[:3] == 0).all() and pixels.max() == 255


@pytest.mark.parametrize(
    "values",
    [
        np.array([0, 1000] * 50),  # a mask
        np.array([-1.0, 1.0] * 50),
        np.append(np.arange(99), 4095),  # a saturated spot
        np.arange(-500, 500),
    ],
)
def test_values_of_their_own_are_no_missing_ones(values):
    assert no_values(values) == []


def test_hot_pixels_and_a_stray_file_do_not_darken_the_others(tmp_path):
    hot = np.rint(picture(side=64) * 1000).astype(np.uint16)
    hot[7, 7] = 65535
    assert own_range(INTEGER, hot) == (0, 1023)
    finder = RangeFinder()
    for highest in [1000] * 20 + [60_000]:
        finder(INTEGER, np.arange(highest, dtype=np.uint16))
    assert finder.common() == {INTEGER: [0, 1023]} and finder.dark() == 0


def test_one_range_for_a_folder_keeps_dark_images_dark(tmp_path):
    folder = save_all(tmp_path / "x", in_bits(12))
    Image.fromarray(np.rint(picture(3) * 800).astype(np.uint16)).save(folder / "dim.png")
    assert squares(folder)[-1].max() == 50


def test_images_of_eight_bits_are_as_they_are_beside_deep_ones(tmp_path):
    folder = save_all(tmp_path / "x", lambda v: np.rint(v * 100).astype(np.uint8), count=5)
    before = squares(folder)
    for number in range(5, 10):
        Image.fromarray(in_bits(12)(picture(number))).save(folder / f"{number}.png")
    loaded = load_images("folder", folder, "train", 24, 1)
    assert loaded.ranges == {INTEGER: [0, 4095]}
    np.testing.assert_array_equal(loaded.images[:5, 0].numpy(), before)
    assert before.max() == 100 and loaded.images[5:].max() == 255


def test_constant_images_have_a_range(tmp_path):
    for values in (np.zeros((8, 8), np.uint16), np.full((8, 8), np.nan, np.float32)):
        Image.fromarray(values).save(tmp_path / "x.tif")
        assert (read_image(tmp_path / "x.tif") == 0).all()
    finder = RangeFinder()
    finder(FLOAT, np.full(9, np.nan))
    assert finder.common() == {}
    assert own_range(FLOAT, np.full(9, 300.0)) == (0, 65535)


def test_values_outside_of_a_stored_range_are_black_or_white():
    values = np.array([-5, 100, 150, 200, 1000])
    limits = stored_range({INTEGER: [100, 200]})(INTEGER, values)
    np.testing.assert_array_equal(to_8_bit(values, limits), [0, 0, 128, 255, 255])


# --- colour --------------------------------------------------------------------------------------


def deep_ppm(path: Path, values: np.ndarray) -> Path:
    """(H, W, 3) in 16 bits, which Pillow reads and cannot write."""
    height, width, _ = values.shape
    path.write_bytes(f"P6 {width} {height} 65535\n".encode() + values.astype(">u2").tobytes())
    return path


@pytest.mark.parametrize("bits", [8, 10, 12])
def test_colour_in_16_bits_of_which_a_part_is_used(tmp_path, bits):
    colours = np.stack([picture(seed) for seed in range(3)], -1)
    highest = 2**bits - 1
    path = deep_ppm(tmp_path / "x.ppm", np.rint(colours * highest))
    np.testing.assert_allclose(read_image(path).astype(int), colours * 255, atol=1)
    loaded = load_images("folder", tmp_path, "train", 24, 3)
    assert loaded.ranges == {COLOUR: [0, highest]}
    assert loaded.facts["mode"].tolist() == ["RGB;16"]


# --- what Pillow reads wrongly in 16 bits --------------------------------------------------------


def deep_tiff(path: Path, planes: np.ndarray, photometric: int) -> Path:
    """(P, H, W) in 16 bits, a plane after the other, which Pillow cannot write."""
    count, height, width = planes.shape
    size, begin = 2 * height * width, 8 + planes.size * 2
    bits = struct.pack(f"<{count}H", *[16] * count)
    starts = struct.pack(f"<{count}I", *(8 + size * plane for plane in range(count)))
    sizes = struct.pack(f"<{count}I", *[size] * count)
    places = [begin, begin + len(bits), begin + len(bits) + len(starts)]
    if count == 1:
        places = [16, 8, size]  # a single value stands in the tag itself
    tags = [
        *[(256, 3, 1, width), (257, 3, 1, height), (258, 3, count, places[0]), (259, 3, 1, 1)],
        *[(262, 3, 1, photometric), (273, 4, count, places[1]), (277, 3, 1, count)],
        *[(278, 3, 1, height), (279, 4, count, places[2]), (284, 3, 1, 2 if count > 1 else 1)],
    ]
    at = begin + len(bits + starts + sizes)
    told = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
    pixels = planes.astype("<u2").tobytes()
    header = b"II*\0" + struct.pack("<I", at)
    path.write_bytes(header + pixels + bits + starts + sizes + told + bytes(4))
    return path


def test_colours_of_16_bits_in_planes_are_refused(tmp_path):
    planes = np.rint(np.stack([picture(seed) for seed in range(3)]) * 4095)
    with pytest.raises(UnreadableImage, match="separate planes"):
        read_image(deep_tiff(tmp_path / "x.tif", planes, photometric=2))


@pytest.mark.parametrize("photometric", [0, 1])
def test_0_is_white_where_the_file_says_so(tmp_path, photometric):
    values = np.rint(picture() * 65535)
    path = deep_tiff(tmp_path / "x.tif", values[None], photometric)
    seen = picture() if photometric else 1 - picture()
    np.testing.assert_allclose(read_image(path, 1)[..., 0].astype(int), seen * 255, atol=1)


# --- a run ---------------------------------------------------------------------------------------


def test_the_range_goes_with_the_run(run_script, tmp_path):
    """Found once, said, kept for later stages and for files that are classified alone."""
    folder = save_all(tmp_path / "deep", in_bits(12), count=40)
    first = ("--data", folder, "--run", "deep", "--width", "4", "--image-size", "24", *TINY)
    told = run_script("simclr.py", *first).stdout
    assert "images: integer grey: values from 0 to 4095, as found here, become black" in told
    run_script("extract_features.py", "--run", "deep", "--neighbors", "5", "--device", "cpu")
    run_script("scan.py", "--run", "deep", "--clusters", "2", *TINY)

    dim = tmp_path / "dim.png"  # by its own range it would be as bright as the others
    Image.fromarray(in_bits(8)(picture())).save(dim)
    alone = tmp_path / "16 of 4095.png"
    Image.fromarray((read_square(dim, 24, 1)[..., 0] // 16).astype(np.uint8)).save(alone)
    run_script("predict.py", "--run", "deep", "--device", "cpu", dim, alone, "--out", "out")
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        seen, expected = (float(row["confidence"]) for row in csv.DictReader(file))
    assert seen == pytest.approx(expected, abs=2e-3)


def test_a_run_without_a_range_sees_each_image_by_its_own(run_script, photo_folder, tmp_path):
    first = ("--data", photo_folder, "--run", "eight", "--width", "4", *TINY)
    assert "become black to white" not in run_script("simclr.py", *first).stdout
    run_script("extract_features.py", "--run", "eight", "--neighbors", "5", "--device", "cpu")
    run_script("scan.py", "--run", "eight", "--clusters", "2", *TINY)
    folder = save_all(tmp_path / "deep", in_bits(10), count=3)
    told = run_script("predict.py", "--run", "eight", "--device", "cpu", folder, "--out", "out")
    assert "3 images of integer grey, each by its own range" in told.stdout
