"""The report on a folder: sizes and kinds of pixels, exact and near duplicates."""

import io
import time

import numpy as np
import pytest
from PIL import Image

from src_py.images.files import fit_square, shrink
from src_py.images.folders import facts_type
from src_py.images.report import (
    Duplicate,
    describe_files,
    find_duplicates,
    find_equal_files,
    find_lookalikes,
)
from tests.messy import picture


def thumbnail(image: Image.Image) -> np.ndarray:
    return shrink(fit_square(image.convert("RGB"), 32), 8)


def facts_of(*files: tuple[int, int, str]) -> np.ndarray:
    facts = np.zeros(len(files), facts_type(3))
    for row, (width, height, mode) in enumerate(files):
        facts[row] = (width, height, mode, np.zeros((8, 8, 3), np.uint8), np.zeros(32, np.uint8))
    return facts


def encoded(image: Image.Image, **options) -> Image.Image:
    file = io.BytesIO()
    image.save(file, **options)
    return Image.open(file)


def test_sizes_and_modes_are_described():
    facts = facts_of((640, 480, "RGB"), (1, 1, "P"), (2000, 20, "I;16B"), (600, 4000, "RGB"))
    assert describe_files(facts) == [
        "smallest 1 x 1 px, median shorter side 250 px, largest 600 x 4000 px, "
        "most elongated 100 : 1",
        "2 RGB, 1 palette, 1 16-bit grey",
    ]


def test_a_mode_without_a_name_keeps_pillows():
    assert describe_files(facts_of((8, 8, "CMYK")))[1] == "1 CMYK"


def test_only_equal_bytes_are_exact_duplicates(tmp_path):
    contents = [b"one", b"two", b"one", b"one", b"two", b"far"]
    paths = [tmp_path / str(row) for row in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    thumbnails = np.zeros((6, 8, 8, 3), np.uint8)
    assert find_equal_files(paths, thumbnails).tolist() == [0, 1, 0, 0, 1, 5]
    thumbnails[3] = 1  # looks different: not read, whatever its bytes
    assert find_equal_files(paths, thumbnails).tolist() == [0, 1, 0, 3, 1, 5]
    thumbnails[3] = 0
    paths[0].unlink()  # gone since it was decoded
    assert find_equal_files(paths, thumbnails).tolist() == [0, 1, 2, 2, 1, 5]


@pytest.mark.parametrize(
    "alter",
    [
        lambda image: image.resize((96, 72), Image.Resampling.BICUBIC),
        lambda image: image.resize((40, 30), Image.Resampling.BICUBIC),
        lambda image: encoded(image, format="JPEG", quality=50),
        lambda image: encoded(image, format="GIF"),
        lambda image: image.point(lambda value: value + 2),
    ],
    ids=["larger", "smaller", "JPEG", "palette", "lighter"],
)
def test_altered_images_are_found_among_many_others(alter):
    images = [picture(seed) for seed in range(200)]
    altered = [alter(image) for image in images[::2]]
    found = find_lookalikes(np.stack([thumbnail(image) for image in [*images, *altered]]))
    assert (found[:200] == np.arange(200)).all()
    assert (found[200:] == np.arange(0, 200, 2)).mean() > 0.95


def test_flat_images_look_alike_only_in_the_same_colour():
    colours = np.array([[0, 0, 0], [255, 0, 0], [0, 0, 1], [128, 128, 128], [255, 1, 0]])
    thumbnails = np.broadcast_to(colours[:, None, None], (5, 8, 8, 3)).astype(np.uint8)
    assert find_lookalikes(thumbnails).tolist() == [0, 1, 0, 3, 1]


def test_every_copy_leads_to_an_earlier_image():
    thumbnails = np.repeat(thumbnail(picture(0))[None], 1000, axis=0)
    found = find_lookalikes(thumbnails)
    assert found[0] == 0 and (found[1:] < np.arange(1, 1000)).all()


@pytest.mark.parametrize("count", [0, 1, 2])
def test_hardly_any_images(count):
    assert find_lookalikes(np.zeros((count, 8, 8, 1), np.uint8)).tolist() == [0] * count


def test_an_image_is_listed_once_exact_before_near(tmp_path):
    original = picture(1)
    names = ["a.png", "b.png", "c.jpg", "d.png"]
    for name in ("a.png", "d.png"):
        original.save(tmp_path / name)
    picture(2).save(tmp_path / "b.png")
    original.save(tmp_path / "c.jpg", quality=80)
    facts = facts_of(*[(64, 48, "RGB")] * 4)
    facts["thumbnail"] = [thumbnail(Image.open(tmp_path / name)) for name in names]
    assert find_duplicates(tmp_path, names, facts) == [
        Duplicate("c.jpg", "a.png", "near"),
        Duplicate("d.png", "a.png", "exact"),
    ]


def test_fifty_thousand_images_take_seconds(tmp_path):
    facts = np.zeros(50_000, facts_type(3))
    facts["width"] = facts["height"] = 32
    coarse = np.random.default_rng(0).integers(0, 256, (50_000, 4, 4, 3), dtype=np.uint8)
    facts["thumbnail"] = coarse.repeat(2, axis=1).repeat(2, axis=2)
    started = time.process_time()
    describe_files(facts)
    assert find_duplicates(tmp_path, [f"{row}.png" for row in range(50_000)], facts) == []
    assert time.process_time() - started < 6  # about 1 s where nothing else runs
