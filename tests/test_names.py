"""Names of many images in one text: the same as strings, in a fraction of the memory."""

import gc
import os
import random
import tarfile
import tracemalloc
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src_py.images import report, tars
from src_py.images.folders import read_folder
from src_py.images.image_set import ImageSet
from src_py.images.names import Names, Paths, names_below
from src_py.images.report import find_duplicates
from src_py.run import records

ODD = ["b.png", "", "é/\n.png", os.fsdecode(b"caf\xe9.png"), "\U0001f600", "a.png", "b.png"]


def test_names_are_those_that_were_given():
    names = Names.of(ODD)
    assert names == ODD and list(names) == ODD
    assert names == Names.of(iter(ODD)) and names != Names.of(ODD[:-1]) and names != 7
    assert names[-1] == "b.png" and names[1:4] == ODD[1:4] and names[::-1] == ODD[::-1]
    assert names.take(np.array([5, 0])) == ["a.png", "b.png"]
    assert Names.of([]) == [] and Names(names.text) == names
    with pytest.raises(IndexError):
        names[len(ODD)]


def test_paths_are_below_their_root():
    for root in (Path("some/where"), Path(), Path("/"), Path("s3:/bucket/x-{0..3}.tar")):
        paths = [root / "a.png", root / "b/c.png"]
        found = Paths(root, names_below(root, paths))
        assert found == paths and names_below(root, found) is found.names
        assert names_below(root, paths) == ["a.png", "b/c.png"]


def test_the_order_of_paths_is_that_of_their_parts():
    drawn = random.Random(0)
    parts = ["a", "b", "a b", "a-b", "a.png", "é", "\ud800", "\uffff", "\U0001f600", "\udce9"]
    found = ["/".join(drawn.choices(parts, k=drawn.randint(1, 4))) for _ in range(500)]
    names = Names.of(found)
    order = names.path_order()
    assert [found[row] for row in order] == sorted(found, key=lambda name: Path(name).parts)
    assert [row for row in order if found[row] == "a"] == [
        row for row, name in enumerate(found) if name == "a"
    ]
    sorted_names = names.take(order)
    assert sorted_names.path_order().tolist() == list(range(500))


def test_a_name_is_found_by_its_order():
    names = Names.of(["b", "a/b", "c", "a-b"])
    order = names.path_order()
    assert [names.find(name, order) for name in ["a-b", "a/b", "b", "c"]] == [3, 1, 0, 2]
    assert names.find("a", order) is None and names.find("d", order) is None
    assert Names.of([]).find("a", Names.of([]).path_order()) is None


def test_their_digest_is_that_of_a_list():
    assert records.digest_of_texts(Names.of(ODD)) == records.digest(ODD)
    assert records.digest_of_texts([]) == records.digest([])


# --- memory --------------------------------------------------------------------------------------


def write_shard(path: Path, images: int) -> None:
    drawn = np.random.default_rng(0)
    with tarfile.open(path, "w") as tar:
        for number in range(images):
            content = BytesIO()
            pixels = drawn.integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(content, "png")
            entry = tarfile.TarInfo(f"folder/{number:08d}.png")
            entry.size = content.tell()
            content.seek(0)
            tar.addfile(entry, content)


FEW, MANY = 200, 1200  # images


def bytes_for_each_more(make: Callable[[int], object]) -> float:
    """The most memory that `make(images)` takes meanwhile, by how it grows with the images."""
    peaks = []
    for images in (MANY, FEW, MANY):  # what is made only once is made the first time
        gc.collect()
        tracemalloc.start()
        try:
            made = make(images)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
        del made
    return (peaks[2] - peaks[1]) / (MANY - FEW)


def test_names_take_less_memory_than_strings():
    found = bytes_for_each_more(lambda images: Names.of(f"{row:020d}" for row in range(images)))
    assert found < 60  # 77, as strings in a list


def test_images_take_little_memory_beside_their_pixels(tmp_path, monkeypatch):
    """Found and taken from what was kept; compared with each other."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(report, "PAIRS_AT_ONCE", 100)
    monkeypatch.setattr(report, "HASHED_AT_ONCE", 100)
    shards = {images: tmp_path / f"{images}.tar" for images in (FEW, MANY)}

    def read(images: int) -> ImageSet:
        monkeypatch.setattr(tars, "_indexes", {})
        found = read_folder(shards[images], "train", 8, 1, tmp_path / str(images))
        assert found is not None and len(found.names) == images
        return found

    for images, shard in shards.items():
        write_shard(shard, images)
        read(images)
    assert bytes_for_each_more(read) < 200
    kept = {images: read(images) for images in shards}

    def compare(images: int) -> object:
        found = kept[images]
        assert found.facts is not None
        return find_duplicates(shards[images], found.names, found.facts)

    assert bytes_for_each_more(compare) < 200
