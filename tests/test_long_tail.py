"""The long-tailed digits are as unequal as they are said to be."""

import numpy as np

from src_py.long_tail import RATIO, long_tail_rows, write_long_tailed_digits


def test_sizes_fall_from_the_most_frequent_class_to_the_rarest():
    labels = np.arange(2000) % 10
    sizes = np.sort(np.bincount(labels[long_tail_rows(labels, ratio=10)]))
    assert sizes[0] == 20 and sizes[-1] == 200
    assert (np.diff(sizes) > 0).all()


def test_the_folder_is_a_class_tree(tmp_path):
    write_long_tailed_digits(tmp_path)
    sizes = [len(list((tmp_path / "train" / str(digit)).iterdir())) for digit in range(10)]
    assert max(sizes) / min(sizes) >= RATIO - 1
    assert sum(len(list(folder.iterdir())) for folder in (tmp_path / "test").iterdir()) == 360
