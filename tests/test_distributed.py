"""Several processes do what one does. Each test starts its processes as torchrun would."""

import json
import socket

import numpy as np
import pytest
import torch

from src_py.run.distributed import ALONE, World, apart
from src_py.run.files import RunFiles
from tests.conftest import PROJECT, write_image
from tests.script_process import HAS_COPIES, Copy

pytestmark = pytest.mark.skipif(not HAS_COPIES, reason="needs a fork server")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def begin(monkeypatch, processes, folder, script, *arguments):
    """The processes, begun with the environment that torchrun gives them."""
    port = free_port()
    copies = []
    for rank in range(processes):
        told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes}
        told |= {"LOCAL_WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        with monkeypatch.context() as patch:
            for name, value in told.items():
                patch.setenv(name, str(value))
            patch.setenv("OMP_NUM_THREADS", "1")
            copies.append(Copy([str(PROJECT / script), *map(str, arguments)], folder))
    return copies


def together(*arguments):
    return [copy.done(120) for copy in begin(*arguments)]


def largest_difference(first, second):
    return max(
        float((one.double() - second[name].double()).abs().max()) for name, one in first.items()
    )


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process comes to."""
    folder = tmp_path_factory.mktemp("alone")
    done = Copy([str(PROJECT / "tests/distributed_steps.py"), "one.pt"], folder).done()
    assert done.returncode == 0, done.stderr
    return torch.load(folder / "one.pt")


@pytest.mark.parametrize("processes", [2, 4])
def test_many_processes_train_what_one_does(monkeypatch, tmp_path, alone, processes):
    done = together(monkeypatch, processes, tmp_path, "tests/distributed_steps.py", "many.pt")
    assert [each.returncode for each in done] == [0] * processes, done
    many = torch.load(tmp_path / "many.pt")
    for stage, losses in alone["losses"].items():
        np.testing.assert_allclose(many["losses"][stage], losses, rtol=1e-9, err_msg=stage)
        assert losses[0] != losses[-1]
    for stage, weights in alone["weights"].items():
        assert largest_difference(weights, many["weights"][stage]) < 1e-8, stage
    torch.testing.assert_close(many["logits"], alone["logits"], rtol=0, atol=1e-6)


SHORT = ("--preset", "digits", "--width", "8", "--run", "r", "--checkpoint-seconds", "0")


def test_the_four_stages_end_as_one_run(monkeypatch, tmp_path):
    (tmp_path / "photos").mkdir()
    for kind in range(3):
        write_image(tmp_path / f"photos/{kind}.png", kind, 0)
    for script, *options in (
        ("simclr.py", *SHORT, "--epochs", "1"),
        ("extract_features.py", "--run", "r"),
        ("scan.py", "--run", "r", "--epochs", "1", "--head-epochs", "1", "--candidate-heads", "3"),
        ("selflabel.py", "--run", "r", "--epochs", "1"),
        ("predict.py", "--run", "r", "photos"),
        ("evaluate.py", "--run", "r"),
    ):
        first, second = together(monkeypatch, 2, tmp_path, script, *options)
        assert (first.returncode, second.returncode) == (0, 0), (first.stderr, second.stderr)
        assert first.stdout and not second.stdout  # the first one tells
        assert not second.stderr
    scores = json.loads((tmp_path / "logs/r/evaluation.json").read_text())
    assert set(scores["train"]) == {"kmeans", "scan", "selflabel"}
    assert len((tmp_path / "logs/r/simclr.csv").read_text().split()) == 2
    rows = (tmp_path / "out/predictions.csv").read_text().split()
    assert [row.split(",")[0] for row in rows] == [
        "path",
        "photos/0.png",
        "photos/1.png",
        "photos/2.png",
    ]


def test_another_number_of_processes_goes_on(monkeypatch, tmp_path):
    files = RunFiles("r")
    processes = begin(monkeypatch, 2, tmp_path, "simclr.py", *SHORT, "--epochs", "6")
    state = tmp_path / files.partial("simclr")
    while not state.exists():
        assert all(copy.process.is_alive() for copy in processes)
    processes[1].process.kill()  # as when a machine is lost
    first, second = (copy.done(30) for copy in processes)
    assert first.returncode == 2 and second.returncode < 0
    assert first.stderr == ("simclr.py: another process has ended; the same command goes on\n"), (
        first.stderr
    )
    (alone,) = together(monkeypatch, 1, tmp_path, "simclr.py", *SHORT, "--epochs", "6")
    assert alone.returncode == 0 and "continuing after epoch" in alone.stdout, alone.stderr


def test_batch_statistics_and_small_batches_are_those_of_one_process(monkeypatch, tmp_path):
    done = together(monkeypatch, 2, tmp_path, "tests/distributed_norms.py")
    assert [each.returncode for each in done] == [0, 0], done
    differences = json.loads((tmp_path / "norms.json").read_text())
    assert len(differences) == 12 and max(differences.values()) < 1, differences


def test_a_batch_that_is_too_small_is_told(monkeypatch, tmp_path):
    first, second = together(
        monkeypatch, 2, tmp_path, "simclr.py", *SHORT, "--epochs", "1", "--batch-size", "3"
    )
    assert first.stderr == (
        "simclr.py: --batch-size 3: too few images for 2 processes: raise it, or start fewer\n"
    )
    assert second.stderr == first.stderr.replace("\n", " (process 1 of 2)\n")
    assert first.returncode == second.returncode == 2


@pytest.mark.parametrize("total, sizes", [(10, [4, 3, 3]), (3, [1, 1, 1]), (2, [1, 1, 0])])
def test_the_parts_of_a_batch_make_it_up(total, sizes):
    rows = torch.arange(total)
    parts = [World(rank, 3).own(rows) for rank in range(3)]
    assert [len(part) for part in parts] == sizes and torch.cat(parts).equal(rows)
    pairs = torch.stack([rows, -rows])
    assert World(1, 3).own(pairs).view(2, -1).equal(torch.stack([parts[1], -parts[1]]))


def test_one_process_exchanges_nothing():
    tensor, module = torch.ones(3), torch.nn.BatchNorm2d(3)
    assert ALONE.whole(tensor, 3) is tensor
    assert ALONE.join(module) is module and type(apart(module)) is torch.nn.BatchNorm2d
    assert ALONE.slowest(None) is None and ALONE.of_the_first(3) == 3


def test_neighbors_are_searched_by_all_processes(monkeypatch, tmp_path):
    done = together(monkeypatch, 2, tmp_path, "tests/distributed_search.py")
    assert [each.returncode for each in done] == [0, 0], done
    found = [np.load(tmp_path / f"{name}.npy") for name in ("alone", "together")]
    np.testing.assert_array_equal(*found)
    searched = json.loads((tmp_path / "searched.json").read_text())
    assert min(searched) > 0 and sum(searched) == 2000  # rows of each process


def test_numbers_of_several_batches_are_for_each_processes_part_of_each():
    """Batches of 5 and 4 images, all of them seen twice."""
    parts = [World(rank, 2).numbers(torch.Generator(), 5, 4, copies=2) for rank in range(2)]
    assert [part.total for part in parts] == [18, 18]
    assert parts[0].rows.tolist() == [0, 1, 2, 5, 6, 9, 10, 11, 14, 15]
    assert parts[1].rows.tolist() == [3, 4, 7, 8, 12, 13, 16, 17]
