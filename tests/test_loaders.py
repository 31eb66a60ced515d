"""Batches hold every image once, whatever the sizes."""

import pytest
import torch

from src_py.datasets import load_images
from src_py.images.finding import find_images
from src_py.images.loaders import (
    MEMORY_SHARE,
    ResidentImages,
    StreamedImages,
    choose_loading,
    device_memory,
    ordered_batches,
    shuffled_batches,
)
from src_py.run.errors import UserError

CPU = torch.device("cpu")


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
    images = ResidentImages(pixels, CPU)
    assert len(images) == 10
    for indices, batch in images.batches([torch.tensor([3, 3, 9]), torch.tensor([0])]):
        assert batch.shape == (len(indices), 3, 2, 2)
        assert batch[:, 0, 0, 0].tolist() == indices.tolist()


def test_ordered_batches_keep_the_order():
    assert torch.cat(ordered_batches(10, 4)).tolist() == list(range(10))


def test_streamed_images_are_the_resident_ones(photo_folder):
    resident = ResidentImages(load_images("folder", photo_folder, "train", 16, 3).images, CPU)
    streamed = StreamedImages(find_images(photo_folder), 16, 3, CPU)
    assert len(streamed) == len(resident) == 40
    wanted = [torch.tensor([3, 3, 39]), torch.tensor([0])]
    pairs = zip(resident.batches(wanted), streamed.batches(wanted), strict=True)
    for (indices, pixels), (streamed_indices, streamed_pixels) in pairs:
        assert torch.equal(indices, streamed_indices)
        assert torch.equal(pixels, streamed_pixels)
    assert streamed.waited > 0 == resident.waited  # for the second batch; the first starts workers


def test_a_file_that_vanished_is_named_in_one_line(photo_folder):
    streamed = StreamedImages(find_images(photo_folder), 16, 3, CPU)
    (photo_folder / "07.png").unlink()
    with pytest.raises(UserError, match=r"07\.png was readable when") as error:
        list(streamed.batches([torch.arange(10)]))
    assert "\n" not in str(error.value)


def test_a_set_is_resident_when_it_takes_at_most_half_of_the_memory():
    memory = device_memory(CPU)
    assert memory > 2**28
    assert choose_loading("auto", int(memory * MEMORY_SHARE), CPU)[0] == "resident"
    mode, reason = choose_loading("auto", int(memory * MEMORY_SHARE) + 1, CPU)
    assert mode == "streamed" and "50%" in reason
    assert choose_loading("resident", 10 * memory, CPU)[0] == "resident"
    assert choose_loading("streamed", 1, CPU)[0] == "streamed"
