"""The folders of digits hold what they are said to hold."""

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from src_py.research.digit_folders import RATIO, long_tail_rows, write_digits


def test_sizes_fall_from_the_most_frequent_class_to_the_rarest():
    labels = np.arange(2000) % 10
    sizes = np.sort(np.bincount(labels[long_tail_rows(labels, ratio=10)]))
    assert sizes[0] == 20 and sizes[-1] == 200
    assert (np.diff(sizes) > 0).all()


def test_the_long_tail_is_a_class_tree(tmp_path):
    write_digits("long-tail", tmp_path)
    sizes = [len(list((tmp_path / "train" / str(digit)).iterdir())) for digit in range(10)]
    assert max(sizes) / min(sizes) >= RATIO - 1
    assert sum(len(list(folder.iterdir())) for folder in (tmp_path / "test").iterdir()) == 360


def test_the_whole_set_is_there_at_its_own_size(tmp_path):
    write_digits("whole", tmp_path)
    files = sorted(tmp_path.rglob("*.png"))
    assert len(files) == 1797
    assert sorted(Image.open(file).tobytes() for file in files) == sorted(
        np.rint(image * 255 / 16).astype(np.uint8).tobytes() for image in load_digits().images
    )
