"""extract_features.py goes on from where it was interrupted, and ends with the same bytes."""

import numpy as np
import pytest
import torch

import extract_features
import simclr
from configs.config_extract_features import ExtractFeaturesConfig
from configs.config_simclr import SimCLRConfig
from src_py.backbones import BackboneSpec, ResNet18
from src_py.mining import unfinished
from src_py.neighbors import UNKNOWN, Neighbors
from src_py.run import records
from src_py.run.errors import UserError
from src_py.run.files import RunFiles, read_record, sha256, write_record
from tests.conftest import write_image

RUN = {"run": "photos", "device": "cpu"}
FILES = RunFiles("photos")
RESULTS = ("features.npy", "views.npy", "neighbors.npy", "rows.csv")


class Killed(BaseException):
    """As when the process ends here."""


def mine(**options):
    config = {**RUN, "neighbors": 5, "components": 8, "batch_size": 16, **options}
    extract_features.main(ExtractFeaturesConfig(**config))


def results():
    return {name: sha256(FILES.checkpoints / name) for name in RESULTS}


@pytest.fixture
def partial(tmp_path, monkeypatch):
    """A run of 80 images on frozen weights, of which each batch is kept."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(unfinished, "KEEP_EVERY", 0)
    for number in range(80):
        write_image(tmp_path / "photos" / f"{number:02d}.png", kind=number % 4, number=number)
    torch.manual_seed(0)
    torch.save(ResNet18(BackboneSpec(8, 3, small_stem=True)).state_dict(), "weights.pth")
    shown = {"data": tmp_path / "photos", "preset": "folder", "init": "weights.pth"}
    simclr.main(SimCLRConfig(**RUN, **shown))
    return FILES.mining


@pytest.fixture
def interrupted(monkeypatch):
    """Runs the mining until the network has seen so many batches, each in three views."""

    def run(batches, **options):
        forward, seen = ResNet18.forward, []

        def count(self, images):
            seen.append(images)
            if len(images) == 16 and sum(len(each) == 16 for each in seen) > 3 * batches:
                raise Killed
            return forward(self, images)

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(ResNet18, "forward", count)
            mine(**options)

    return run


def test_it_goes_on_with_the_next_batch(partial, interrupted, capsys):
    mine()
    whole = results()
    assert not partial.exists()
    interrupted(2)
    assert results() == whole  # what was there stays until all is made
    interrupted(1)  # of those that are left
    capsys.readouterr()
    mine()
    assert "features: 48 of 80 images are there already" in capsys.readouterr().out
    assert results() == whole and not partial.exists()


def test_the_time_of_earlier_starts_counts(partial, interrupted):
    interrupted(2)
    path = partial / unfinished.PROGRESS
    progress = read_record(path, records.MINING, "")
    assert 0 <= progress["seconds"] < 900
    write_record(path, progress | {"seconds": 1000.0})
    mine()
    record = read_record(FILES.config("extract_features"), records.FINISHED, "")
    assert 1000 < record["seconds"] < 1900


def test_a_search_goes_on(partial, monkeypatch, capsys):
    mine()
    whole = results()
    put = Neighbors.put

    def put_half(self, rows, indices, similarity):
        put(self, rows[::2], indices[::2], similarity[::2])
        raise Killed

    def put_nothing(*_):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Neighbors, "put", put_half)
        mine()
    neighbors = np.load(partial / "neighbors.npy", mmap_mode="r+")
    neighbors[4, 3:] = UNKNOWN  # as where a machine went down meanwhile
    del neighbors
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Neighbors, "put", put_nothing)
        mine()
    sought = []
    monkeypatch.setattr(Neighbors, "put", lambda *a: sought.extend(a[1]) or put(*a))
    capsys.readouterr()
    mine()
    assert "80 of 80 images are there already" in capsys.readouterr().out
    assert sought == sorted([4, *range(1, 80, 2)]) and results() == whole


def test_features_of_other_options_are_begun_again(partial, interrupted, capsys):
    interrupted(2)
    mine(views=1)
    told = capsys.readouterr().out
    assert "already" not in told and "begun again" in told
    assert np.load(FILES.views).shape[1] == 1


def test_features_are_searched_otherwise_without_being_made_again(partial, monkeypatch, capsys):
    def kill(*_):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Neighbors, "put", kill)
        mine()
    mine(neighbors=6, device="auto", loading="streamed")
    assert "80 of 80 images are there already" in capsys.readouterr().out
    assert np.load(FILES.neighbors).shape == (80, 6)


def test_what_a_killed_end_has_left_is_no_beginning(partial, monkeypatch, capsys):
    with monkeypatch.context() as patch, pytest.raises(Killed):

        def kill(*_, **__):
            raise Killed

        patch.setattr(unfinished.shutil, "rmtree", lambda folder, **o: folder.exists() and kill())
        mine()
    assert partial.exists()
    whole = results()
    mine()
    assert "already" not in capsys.readouterr().out
    assert results() == whole and not partial.exists()


@pytest.mark.parametrize("name", ["features.npy", "views.npy", "neighbors.npy", "progress.json"])
def test_damage_is_one_line(partial, interrupted, name):
    interrupted(2)
    path = partial / name
    content = bytearray(path.read_bytes())
    content[150] ^= 64
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"mining\.partial.* is damaged.*delete") as error:
        mine()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["features.npy", "views.npy", "neighbors.npy"])
@pytest.mark.parametrize("size", [50, 1000])
def test_a_part_of_a_file_is_one_line(partial, interrupted, name, size):
    interrupted(2)
    with (partial / name).open("r+b") as file:
        file.truncate(size)
    with pytest.raises(UserError, match=r"mining\.partial.* is damaged.*delete"):
        mine()


def test_a_full_disk_is_one_line(partial, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("src_py.run.writing.os.posix_fallocate", full, raising=False)
    with pytest.raises(OSError, match="No space left on device"):
        mine()


def test_views_of_another_device_are_drawn_again(partial, interrupted, capsys, monkeypatch):
    """Whose random numbers are others."""
    mine()
    whole = results()
    interrupted(2)
    of = unfinished.UnfinishedMining.of

    def on_another(files, made_from, _, *shape):
        return of(files, made_from, torch.device("cuda"), *shape)

    monkeypatch.setattr(unfinished.UnfinishedMining, "of", on_another)
    mine()
    assert "begun again" in capsys.readouterr().out
    assert results() == whole
