"""Batches hold every image once, whatever the sizes."""

import pytest
import torch

from src_py.loaders import ResidentImages, ordered_batches, shuffled_batches


@pytest.mark.parametrize("size", [1, 2, 32, 33, 100])
@pytest.mark.parametrize("batch_size", [1, 7, 32, 64, 1000])
def test_an_epoch_holds_every_index_once(size, batch_size):
    batches = shuffled_batches(size, batch_size, torch.Generator().manual_seed(0))
    assert torch.cat(batches).sort().values.tolist() == list(range(size))
    lengths = [len(batch) for batch in batches]
    assert max(lengths) <= batch_size
    assert max(lengths) - min(lengths) <= 1


def test_the_order_depends_on_the_generator_alone():
    first, again, other = (
        torch.cat(shuffled_batches(50, 8, torch.Generator().manual_seed(seed)))
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_batches_are_the_images_at_the_indices():
    pixels = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1).expand(10, 3, 2, 2)
    images = ResidentImages(pixels, torch.device("cpu"))
    assert len(images) == 10
    for indices, batch in images.batches([torch.tensor([3, 3, 9]), torch.tensor([0])]):
        assert batch.shape == (len(indices), 3, 2, 2)
        assert batch[:, 0, 0, 0].tolist() == indices.tolist()


def test_ordered_batches_keep_the_order():
    assert torch.cat(ordered_batches(10, 4)).tolist() == list(range(10))
