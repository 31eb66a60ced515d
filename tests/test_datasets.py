"""Image sets from folders, archives and the cache, and the labels that belong to them."""

import gzip
import json
import os
import pickle
import struct
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image

from configs.presets import PRESETS
from src_py import datasets
from src_py.datasets import SOURCES, choose_image_size, load_images
from src_py.images import folders
from src_py.images.folders import read_folder
from src_py.images.image_set import DataSettings, ImageSet
from src_py.images.splits import split_folder
from src_py.images.statistics import measure_mean_std
from src_py.run import (
    records,
    torchvision_compat,  # noqa: F401
)
from src_py.run.errors import UserError
from src_py.run.files import read_record, write_record
from src_py.scoring.class_labels import load_labels, read_array_pickle

RNG = np.random.default_rng(0)


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def save(path: Path, shade: int = 0, size: tuple[int, int] = (16, 16)) -> Path:
    """A plain grey image; its shade tells which file a row came from."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade, shade, shade)).save(path)
    return path


def load(root: Path, split: str = "train", **options) -> ImageSet | None:
    settings = {"image_size": 16, "channels": 3} | options
    return load_images("folder", root, split, **settings)


def shades(images: ImageSet) -> list[int]:
    return images.images[:, 0, 8, 8].tolist()


# --- folders -------------------------------------------------------------------------------------


def test_rows_and_names_are_sorted_and_match(tmp_path):
    names = ["b.png", "a/2.png", "a/10.png", "c d/é\n.png", "a.png"]
    for shade, name in enumerate(names):
        save(tmp_path / name, shade)
    loaded = load(tmp_path)
    assert loaded.images.shape == (5, 3, 16, 16) and loaded.images.dtype == torch.uint8
    assert loaded.names == ["a/10.png", "a/2.png", "a.png", "b.png", "c d/é\n.png"]
    assert shades(loaded) == [names.index(name) for name in loaded.names]
    assert load(tmp_path, "test") is None
    assert load(tmp_path, "unlabelled") is None


def test_more_images_than_one_chunk_stay_in_order(tmp_path):
    for shade in range(150):
        save(tmp_path / f"{shade:03d}.png", shade)
    (tmp_path / "070.png").write_bytes(b"")
    loaded = load(tmp_path, channels=1, image_size=8)
    assert loaded.images.shape == (149, 1, 8, 8)
    assert loaded.images[:, 0, 4, 4].tolist() == [s for s in range(150) if s != 70]


def test_unreadable_files_are_listed_and_take_no_row(tmp_path):
    for shade, name in enumerate(["a.png", "b.png", "c.png", "d.heic", "e.png"]):
        save(tmp_path / f"{name}.png", shade).rename(tmp_path / name)
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "c.png").write_text("text")
    (tmp_path / "d.heic").write_bytes(b"\0\0\0\x18ftypheic")
    loaded = load(tmp_path)
    assert loaded.names == ["b.png", "e.png"] and shades(loaded) == [1, 4]
    assert [name for name, _ in loaded.skipped] == ["a.png", "c.png", "d.heic"]
    assert loaded.skipped[0][1] == "empty file"


@pytest.mark.parametrize("test_name", ["test", "val", "valid"])
def test_train_and_test_folders_are_splits(tmp_path, test_name):
    save(tmp_path / "train/cat/1.png", 1)
    save(tmp_path / test_name / "cat/1.png", 2)
    save(tmp_path / "elsewhere/3.png", 3)
    assert load(tmp_path).names == ["train/cat/1.png"]
    assert load(tmp_path, "test").names == [f"{test_name}/cat/1.png"]


def test_train_alone_is_a_split_unless_it_is_one_folder_among_others(tmp_path):
    save(tmp_path / "train/1.png")
    (tmp_path / "test").mkdir()
    assert split_folder(tmp_path, "train") == tmp_path / "train"
    assert load(tmp_path, "test") is None
    save(tmp_path / "car/2.png")
    assert load(tmp_path).names == ["car/2.png", "train/1.png"]


def test_test_without_train_is_an_ordinary_folder(tmp_path):
    save(tmp_path / "test/1.png")
    assert load(tmp_path).names == ["test/1.png"]
    assert load(tmp_path, "test") is None


def test_wrong_folders_are_user_errors_in_one_line(tmp_path):
    image = save(tmp_path / "full/x.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/x.png").write_bytes(b"")
    for root, message in [
        (tmp_path / "gone", "gone does not exist"),
        (image, "is a file, not a folder"),
        (tmp_path / "empty", "no image in .*empty: give a folder with avif"),
        (tmp_path / "broken", r"broken: none of the 1 files .* \(the first, x.png: empty file\)"),
    ]:
        with pytest.raises(UserError, match=message) as error:
            load(root)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="needs a folder"):
        load(None)
    with pytest.raises(UserError, match="unknown data source 'cifar': choose one of digits"):
        load_images("cifar", tmp_path, "train", 32, 3)
    with pytest.raises(ValueError, match="split"):
        load(tmp_path, "training")


def test_images_that_do_not_fit_in_memory_are_a_user_error(tmp_path):
    save(tmp_path / "x.png")
    with pytest.raises(UserError, match="GiB of memory"):
        load(tmp_path, image_size=2**24)


def test_a_read_only_folder_is_enough(tmp_path):
    save(tmp_path / "photos/x.png", 7)
    (tmp_path / "photos").chmod(0o555)
    assert shades(load(tmp_path / "photos", cache_dir=tmp_path / "ckp")) == [7]


def test_facts_are_those_of_the_files_not_of_the_squares(tmp_path):
    save(tmp_path / "a.png", 7, size=(40, 20))
    save(tmp_path / "b.png").write_bytes(b"")
    Image.new("L", (3, 900), 9).save(tmp_path / "c.png")
    facts = load(tmp_path).facts
    assert facts[["width", "height", "mode"]].tolist() == [(40, 20, "RGB"), (3, 900, "L")]
    assert facts["thumbnail"].shape == (2, 8, 8, 3)
    assert facts["thumbnail"][:, 0, 0, 0].tolist() == [7, 9]


# --- the cache -----------------------------------------------------------------------------------


@pytest.fixture
def decoded(monkeypatch):
    """Counts the files decoded; [0] is the number so far."""
    count = [0]
    read = folders.read_square_and_header

    def counting(*arguments):
        count[0] += 1
        return read(*arguments)

    monkeypatch.setattr(folders, "read_square_and_header", counting)
    return count


@pytest.fixture
def photos(tmp_path):
    root = tmp_path / "photos"
    for shade in range(3):
        save(root / f"{shade}.png", shade)
    (root / "bad.png").write_bytes(b"")
    return root


def test_the_cache_gives_the_same_set_without_decoding(photos, tmp_path, decoded):
    first = load(photos, cache_dir=tmp_path / "ckp/run")
    assert decoded == [4]
    second = load(photos, cache_dir=tmp_path / "ckp/run")
    assert decoded == [4]
    assert torch.equal(first.images, second.images)
    assert (first.names, first.skipped) == (second.names, second.skipped)
    np.testing.assert_array_equal(first.facts, second.facts)
    second.images.zero_()  # a private copy
    assert shades(load(photos, cache_dir=tmp_path / "ckp/run")) == [0, 1, 2]
    files = sorted(path.name for path in (tmp_path / "ckp/run").iterdir())
    kept = ["images-train-facts.npy", "images-train-names.npy", "images-train.json"]
    assert files == [*kept, "images-train.npy"]


def test_every_change_of_files_or_settings_is_noticed(photos, tmp_path, decoded, monkeypatch):
    cache = tmp_path / "ckp"
    load(photos, cache_dir=cache)

    def noticed(**options) -> ImageSet:
        before = decoded[0]
        loaded = load(photos, cache_dir=cache, **options)
        assert decoded[0] > before
        return loaded

    save(photos / "0.png", 50)
    assert shades(noticed()) == [50, 1, 2]
    os.utime(photos / "1.png", ns=(1, 1))
    noticed()
    save(photos / "9.png", 9)
    assert shades(noticed()) == [50, 1, 2, 9]
    (photos / "1.png").unlink()
    assert shades(noticed()) == [50, 2, 9]
    (photos / "2.png").rename(photos / "z.png")
    assert noticed().names == ["0.png", "9.png", "z.png"]
    assert noticed(image_size=8).images.shape[-1] == 8
    assert noticed(channels=1, image_size=8).images.shape[1] == 1
    monkeypatch.setattr(folders, "CACHE_VERSION", folders.CACHE_VERSION + 1)
    noticed(channels=1, image_size=8)


@pytest.mark.parametrize("name", folders._cache_files(Path(), "train"), ids=str)
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "foreign"])
def test_a_damaged_cache_is_decoded_again(photos, tmp_path, decoded, name, damage):
    load(photos, cache_dir=tmp_path)
    file = tmp_path / name
    content = file.read_bytes()
    file.unlink()
    if damage != "missing":
        foreign = b"[]" if name.suffix == ".json" else pickle.dumps([1])
        contents = {"empty": b"", "truncated": content[: len(content) // 2], "foreign": foreign}
        file.write_bytes(contents[damage])
    assert shades(load(photos, cache_dir=tmp_path)) == [0, 1, 2]
    assert decoded == [8]


@pytest.mark.parametrize(
    "name", ["images-train.npy", "images-train-facts.npy", "images-train-names.npy"]
)
def test_an_array_of_another_shape_is_not_taken(photos, tmp_path, decoded, name):
    load(photos, cache_dir=tmp_path)
    np.save(tmp_path / name, noise(2, 3, 16, 16))
    assert shades(load(photos, cache_dir=tmp_path)) == [0, 1, 2]
    assert decoded == [8]


def test_names_in_the_index_of_an_earlier_version_are_read(photos, tmp_path, decoded):
    names = load(photos, cache_dir=tmp_path, ranges={}).names
    *_, names_file, index_file = folders._cache_files(tmp_path, "train")
    index = read_record(index_file, records.CACHE, "")
    write_record(index_file, index | {"names": list(names)})
    names_file.unlink()
    assert load(photos, cache_dir=tmp_path, ranges={}).names == names and decoded == [4]
    (photos / "1.png").unlink()
    assert load(photos, cache_dir=tmp_path, ranges={}).lost == [("1.png", "gone")]


def test_names_that_are_not_utf8_pass_through_the_cache(tmp_path, decoded):
    path = tmp_path / "photos" / os.fsdecode(b"caf\xe9.png")
    try:
        save(path)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    for _ in range(2):
        assert load(tmp_path / "photos", cache_dir=tmp_path).names == [path.name]
    assert decoded == [1]


def test_splits_have_caches_of_their_own(tmp_path, decoded):
    save(tmp_path / "data/train/1.png", 1)
    save(tmp_path / "data/test/2.png", 2)
    for _ in range(2):
        assert shades(load(tmp_path / "data", "train", cache_dir=tmp_path)) == [1]
        assert shades(load(tmp_path / "data", "test", cache_dir=tmp_path)) == [2]
    assert decoded == [2]


def test_a_full_disk_costs_one_line_and_nothing_else(photos, tmp_path, monkeypatch, capsys):
    def full(path, array):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    folders._warn_once.cache_clear()
    for _ in range(2):
        assert shades(load(photos, cache_dir=tmp_path / "ckp")) == [0, 1, 2]
    assert list((tmp_path / "ckp").iterdir()) == []
    warning = capsys.readouterr().err
    assert warning.count("\n") == 1 and "No space left on device" in warning


# --- image size and statistics -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("side", "limit", "expected"),
    [
        (32, 224, 32), (28, 224, 32), (25, 224, 16), (26, 224, 32), (8, 224, 16), (96, 224, 96),
        (500, 224, 224), (500, 64, 64), (500, 100, 96), (160, 224, 128), (180, 224, 224),
        (5, 8, 8), (500, 8, 8),
    ],
)  # fmt: skip
def test_image_size_suits_the_median_shorter_side(tmp_path, side, limit, expected):
    sizes = [(side, 3 * side), (2 * side, side), (side, side), (4000, 3000)]
    paths = [save(tmp_path / f"{i}.png", size=size) for i, size in enumerate(sizes)]
    (tmp_path / "bad.png").write_bytes(b"")
    assert choose_image_size([*paths, tmp_path / "bad.png"], limit) == expected


def test_image_size_reads_at_most_200_headers(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(datasets, "read_shorter_side", lambda path: read.append(path) or 64)
    assert choose_image_size([Path(str(i)) for i in range(5000)], 224) == 64
    assert len(set(read)) == 200
    (tmp_path / "bad.png").write_bytes(b"")
    monkeypatch.undo()
    assert choose_image_size([tmp_path / "bad.png"], 224) == 224


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (7, 3, 5, 6), (2500, 3, 4, 4), (3, 1, 300, 200)])
def test_mean_and_std_are_those_of_numpy(shape):
    images = noise(*shape)
    mean, std = measure_mean_std(torch.from_numpy(images))
    pixels = images.astype(np.float64) / 255
    np.testing.assert_allclose(mean, pixels.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, np.maximum(pixels.std((0, 2, 3)), 1e-3), rtol=1e-9)
    assert all(isinstance(value, float) for value in mean + std)


def test_std_is_never_zero_and_nothing_cannot_be_measured():
    assert measure_mean_std(torch.full((4, 2, 3, 3), 255, dtype=torch.uint8)) == (
        (1.0, 1.0),
        (1e-3, 1e-3),
    )
    with pytest.raises(ValueError, match="no pixels"):
        measure_mean_std(torch.empty(0, 3, 8, 8, dtype=torch.uint8))


# --- digits --------------------------------------------------------------------------------------


def test_digits_splits_cover_the_set_once_and_labels_fit():
    from sklearn.datasets import load_digits

    digits = load_digits()
    seen = []
    for split, count in (("train", 1437), ("test", 360)):
        loaded = load_images("digits", None, split, 8, 1)
        assert loaded.images.shape == (count, 1, 8, 8) and loaded.images.dtype == torch.uint8
        assert loaded.names[12] == f"{split}/00012"
        labels, classes = load_labels("digits", None, split, loaded.names)
        assert labels.dtype == np.int64 and classes == list("0123456789")
        seen += [
            (*image.flatten().tolist(), label)
            for image, label in zip(loaded.images, labels, strict=True)
        ]
    originals = np.rint(digits.images * 255 / 16).astype(int).reshape(-1, 64)
    expected = [
        (*pixels, label) for pixels, label in zip(originals.tolist(), digits.target, strict=True)
    ]
    assert sorted(seen) == sorted(expected)


def test_digits_are_enlarged_and_get_the_channels_asked_for():
    small = load_images("digits", None, "test", 8, 1).images
    large = load_images("digits", None, "test", 16, 3).images
    assert large.shape == (360, 3, 16, 16)
    assert torch.equal(large[:, 0], large[:, 2])
    bilinear = Image.fromarray(small[7, 0].numpy()).resize((16, 16), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(large[7, 0].numpy(), np.asarray(bilinear))
    assert load_images("digits", None, "unlabelled", 16, 1) is None


# --- torchvision's sets, in tiny files of the true formats ----------------------------------------


class Python2Pickler(pickle._Pickler):
    """Writes strings and NumPy arrays the way Python 2 wrote the CIFAR files."""

    def save_python2_string(self, text):
        content = text.encode("latin1") if isinstance(text, str) else text
        self.write(pickle.BINSTRING + struct.pack("<i", len(content)) + content)

    dispatch = pickle._Pickler.dispatch | {str: save_python2_string, bytes: save_python2_string}


def dump_python2(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        Python2Pickler(file, 2).dump(content)
    path.write_bytes(path.read_bytes().replace(b"numpy._core", b"numpy.core"))


@pytest.fixture
def unchecked(monkeypatch):
    """Lets torchvision take files whose checksums are not those of the real sets."""
    from torchvision.datasets import cifar, stl10

    for module in (cifar, stl10):
        monkeypatch.setattr(module, "check_integrity", lambda path, md5=None: os.path.isfile(path))


@pytest.mark.usefixtures("unchecked")
def test_cifar10(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    pixels = noise(6, 2, 3, 32, 32)
    for batch, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        content = {"data": pixels[batch].reshape(2, -1), "labels": [batch, 9]}
        dump_python2(folder / name, content)
    dump_python2(folder / "batches.meta", {"label_names": [f"class {i}" for i in range(10)]})
    for root in (tmp_path, folder):
        train = load_images("cifar10", root, "train", 32, 3)
        np.testing.assert_array_equal(train.images.numpy(), pixels[:5].reshape(-1, 3, 32, 32))
    test = load_images("cifar10", tmp_path, "test", 16, 1)
    assert test.images.shape == (2, 1, 16, 16) and test.names == ["test/00000", "test/00001"]
    assert load_images("cifar10", tmp_path, "unlabelled", 32, 3) is None
    labels, classes = load_labels("cifar10", tmp_path, "train", train.names)
    assert labels.tolist() == [0, 9, 1, 9, 2, 9, 3, 9, 4, 9] and classes[3] == "class 3"
    labels, _ = load_labels("cifar10", tmp_path, "test", ["test/00001"])
    assert labels.tolist() == [9]


@pytest.mark.usefixtures("unchecked")
def test_cifar20_has_the_superclasses(tmp_path):
    folder = tmp_path / "cifar-100-python"
    pixels = noise(3, 3, 32, 32)
    content = {
        "data": pixels.reshape(3, -1),
        "fine_labels": [99, 0, 7],
        "coarse_labels": [19, 4, 1],
    }
    dump_python2(folder / "train", content)
    dump_python2(folder / "test", content)
    names = {"fine_label_names": ["fine"] * 100, "coarse_label_names": [f"c{i}" for i in range(20)]}
    dump_python2(folder / "meta", names)
    test = load_images("cifar20", tmp_path, "test", 32, 3)
    np.testing.assert_array_equal(test.images.numpy(), pixels)
    labels, classes = load_labels("cifar20", tmp_path, "test", test.names)
    assert labels.tolist() == [19, 4, 1] and classes == [f"c{i}" for i in range(20)]


@pytest.mark.usefixtures("unchecked")
def test_stl10_has_an_unlabelled_split(tmp_path):
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    pixels = {name: noise(2, 3, 96, 96) for name in ("train", "test", "unlabeled")}
    for name, images in pixels.items():
        images.transpose(0, 1, 3, 2).tofile(folder / f"{name}_X.bin")  # column-major on disk
        np.array([10, 1], np.uint8).tofile(folder / f"{name}_y.bin")  # 1-based
    for split in ("train", "test", "unlabelled"):
        loaded = load_images("stl10", tmp_path, split, 96, 3)
        expected = pixels["unlabeled" if split == "unlabelled" else split]
        np.testing.assert_array_equal(loaded.images.numpy(), expected)
        assert loaded.names == [f"{split}/00000", f"{split}/00001"]
    labels, classes = load_labels("stl10", tmp_path, "test", loaded.names)
    assert labels.tolist() == [9, 0] and (classes[9], classes[0]) == ("truck", "airplane")
    assert load_labels("stl10", tmp_path, "unlabelled", loaded.names) is None
    assert load_images("stl10", tmp_path, "train", 32, 3).images.shape == (2, 3, 32, 32)


@pytest.mark.parametrize("recipe", ["paper", "best"])
def test_only_stl10_s_pretext_sees_unlabelled_images(recipe):
    """As the authors' simclr.py does (split 'train+unlabeled')."""
    see_them = {
        name for name in PRESETS if PRESETS[name].stage("simclr", recipe).get("use_unlabelled")
    }
    assert see_them == {"stl10"}


def write_idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = (
        struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()
    )
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.mark.parametrize("source", ["mnist", "fashion_mnist"])
@pytest.mark.parametrize("place", ["torchvision", "plain", "gz"])
def test_mnist_family(tmp_path, source, place):
    folder, suffix = tmp_path, ".gz" if place == "gz" else ""
    if place == "torchvision":
        folder = tmp_path / {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}[source] / "raw"
    pixels = {"train": noise(4, 28, 28), "t10k": noise(3, 28, 28)}
    for part, images in pixels.items():
        write_idx(folder / f"{part}-images-idx3-ubyte{suffix}", images)
        labels = np.arange(len(images), dtype=np.uint8)
        write_idx(folder / f"{part}-labels-idx1-ubyte{suffix}", labels)
    train = load_images(source, tmp_path, "train", 28, 1)
    np.testing.assert_array_equal(train.images[:, 0].numpy(), pixels["train"])
    test = load_images(source, tmp_path, "test", 32, 3)
    assert test.images.shape == (3, 3, 32, 32)
    labels, classes = load_labels(source, tmp_path, "test", test.names)
    assert labels.tolist() == [0, 1, 2] and len(classes) == 10


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_damaged_idx_file_is_a_user_error(tmp_path, suffix):
    path = tmp_path / f"train-images-idx3-ubyte{suffix}"
    write_idx(path, noise(4, 28, 28))
    for length in (0, 2, 10, 500):
        path.write_bytes(path.read_bytes()[:length] if length else b"")
        with pytest.raises(UserError, match="not a complete IDX file"):
            load_images("mnist", tmp_path, "train", 28, 1)


@pytest.mark.parametrize("source", [s for s in SOURCES if s not in ("digits", "folder")])
def test_a_failed_download_says_what_to_do_in_one_line(tmp_path, monkeypatch, source):
    import torchvision.datasets as tv

    def offline(self):
        raise URLError("Name or service\nnot known")

    for dataset_class in (tv.CIFAR10, tv.STL10, tv.MNIST):  # the others inherit from these
        monkeypatch.setattr(dataset_class, "download", offline)
    with pytest.raises(UserError, match=r"cannot be downloaded .*not known.*: fetch http") as error:
        load_images(source, tmp_path, "train", 32, 3)
    assert "\n" not in str(error.value)


def test_pickles_that_could_run_code_are_refused(tmp_path):
    for content in (os.system, [np.load], {"x": Path("x")}):
        (tmp_path / "train").write_bytes(pickle.dumps(content))
        with pytest.raises(UserError, match="cannot read labels"):
            read_array_pickle(tmp_path / "train")


# --- labels of folders ---------------------------------------------------------------------------


def test_folder_labels_follow_names_past_skipped_files(tmp_path):
    for name in ("train/cat/1.png", "train/cat/sub/2.png", "train/ant/3.png", "test/cat/4.png"):
        save(tmp_path / name)
    (tmp_path / "train/ant/0.png").write_bytes(b"")
    train = load(tmp_path)
    assert train.names == ["train/ant/3.png", "train/cat/1.png", "train/cat/sub/2.png"]
    labels, classes = load_labels("folder", tmp_path, "train", train.names)
    assert labels.tolist() == [0, 1, 1] and labels.dtype == np.int64 and classes == ["ant", "cat"]
    reversed_labels, _ = load_labels("folder", tmp_path, "train", train.names[::-1])
    assert reversed_labels.tolist() == [1, 1, 0]
    labels, classes = load_labels("folder", tmp_path, "test", load(tmp_path, "test").names)
    assert labels.tolist() == [1] and classes == ["ant", "cat"]  # numbered as in train


def test_folders_without_class_folders_have_no_labels(tmp_path):
    save(tmp_path / "plain/a/1.png")
    save(tmp_path / "flat/train/1.png")
    save(tmp_path / "mixed/train/a/1.png")
    save(tmp_path / "mixed/train/2.png")
    for name in ("plain", "flat", "mixed"):
        root = tmp_path / name
        assert load_labels("folder", root, "train", load(root).names) is None
        assert load_labels("folder", root, "test", []) is None


def test_first_level_of_a_plain_folder_on_request(tmp_path):
    for name in ("b/1.png", "a/x/2.png", "b/3.png"):
        save(tmp_path / name)
    names = load(tmp_path).names
    labels, classes = load_labels("folder", tmp_path, "train", names, folder_labels=True)
    assert names == ["a/x/2.png", "b/1.png", "b/3.png"]
    assert labels.tolist() == [0, 1, 1] and classes == ["a", "b"]
    save(tmp_path / "stray.png")
    with pytest.raises(UserError, match=r"stray\.png lies in no class folder"):
        load_labels("folder", tmp_path, "train", load(tmp_path).names, folder_labels=True)


def test_loading_images_works_where_no_labels_exist(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "sklearn.datasets.load_digits", lambda: SimpleNamespace(images=np.zeros((1797, 8, 8)))
    )
    unlabelled = SimpleNamespace(data=noise(2, 32, 32, 3))
    monkeypatch.setattr(datasets, "open_torchvision_set", lambda *arguments: unlabelled)
    assert len(load_images("digits", None, "train", 8, 1).names) == 1437
    assert len(load_images("cifar10", tmp_path, "train", 32, 3).names) == 2


def test_settings_survive_json():
    settings = DataSettings("digits", None, 16, 1, (0.5,), (0.25,))
    stored = json.loads(json.dumps(vars(settings)))
    assert stored["mean"] == [0.5] and stored["source"] == "digits"


# --- folders that are too large to keep decoded --------------------------------------------------


def test_a_folder_is_read_alike_with_and_without_its_pixels(tmp_path, decoded):
    folder, cache = tmp_path / "images", tmp_path / "cache"
    for number in range(5):
        save(folder / f"{number}.png", shade=40 * number)
    (folder / "broken.png").write_bytes(b"")
    whole = load_images("folder", folder, "train", 8, 3)
    index = read_folder(folder, "train", 8, 3, cache, keep_pixels=False)
    assert index.images is None and whole.images is not None
    assert index == whole and decoded == [12]
    assert (index.mean, index.std) == measure_mean_std(whole.images)
    cached = read_folder(folder, "train", 8, 3, cache, keep_pixels=False)
    assert cached == index and decoded == [12]
    for facts in (whole.facts, cached.facts):
        np.testing.assert_array_equal(index.facts, facts)
    files = sorted(path.name for path in cache.iterdir())
    assert files == ["images-train-facts.npy", "images-train-names.npy", "images-train.json"]
    with_pixels = read_folder(folder, "train", 8, 3, cache)
    assert torch.equal(with_pixels.images, whole.images) and decoded == [18]
    assert read_folder(folder, "train", 8, 3, cache, keep_pixels=False) == index
    assert decoded == [18]  # what was read with pixels serves where none are asked for
    (folder / "4.png").unlink()
    assert len(read_folder(folder, "train", 8, 3, cache, keep_pixels=False).names) == 4
    assert read_folder(folder, "test", 8, 3, cache) is None
