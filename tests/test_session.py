"""Checkpoints, resume and logs of a training stage."""

import csv
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from src_py.checkpoints import load_checkpoint, save_checkpoint
from src_py.errors import UserError
from src_py.hardware import choose_hardware
from src_py.run_files import RunFiles, read_json, write_atomically
from src_py.session import TrainingSession


@dataclass
class Options:
    """The part of a TrainingConfig that a session reads."""

    run: str = "mine"
    epochs: int = 4
    seed: int = 0
    minutes: float | None = None
    restart: bool = False
    tensorboard: bool = False
    checkpoint_seconds: float = 0.0

    @property
    def files(self):
        return RunFiles(self.run)


class Clock:
    """Time that passes only when it is told to."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr("time.monotonic", lambda: self.now)


class Interrupted(Exception):
    """Stands for Ctrl-C or a power cut."""


@pytest.fixture(autouse=True)
def empty_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def train(options, made_from=(), stop_in=None, stage="scan", settle=None):
    """A stage in small: its weights depend on every epoch's random numbers."""
    session = TrainingSession(options, stage, choose_hardware("cpu"), made_from)
    if session.is_finished:
        return None
    if settle and not session.is_resumable:
        options.epochs = settle
        session.settle_options()
    torch.manual_seed(options.seed)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for epoch in session.epochs(options.epochs, 8, model=model, optimizer=optimizer):
        generator = session.generator(epoch)
        for step in range(2):
            if stop_in == (epoch, step):
                raise Interrupted
            loss = model(torch.randn(4, 3, generator=generator)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            session.record(4, loss=loss)
    session.finish({"weights": model.state_dict()})
    return model.state_dict()


@pytest.mark.parametrize("stop_in", [(0, 1), (2, 0), (3, 1)])
def test_an_interrupted_stage_ends_with_the_same_weights(stop_in):
    whole = train(Options(run="whole"))
    with pytest.raises(Interrupted):
        train(Options(), stop_in=stop_in)
    assert RunFiles("mine").partial("scan").exists() == (stop_in[0] > 0)
    resumed = train(Options())
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert not RunFiles("mine").partial("scan").exists()
    stored = load_checkpoint(RunFiles("mine").output("scan"))["weights"]
    assert all(torch.equal(whole[name], stored[name]) for name in whole)


def test_the_log_has_one_row_an_epoch_also_after_a_resume():
    with pytest.raises(Interrupted):
        train(Options(), stop_in=(2, 1))
    train(Options())
    with RunFiles("mine").log("scan").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert {"loss", "images_per_second", "seconds"} <= rows[0].keys()


def test_a_finished_stage_says_so_and_stops(capsys):
    train(Options())
    assert train(Options()) is None
    assert "finished already" in capsys.readouterr().out
    assert train(Options(restart=True)) is not None


def test_other_options_are_refused_until_restart():
    train(Options())
    with pytest.raises(UserError, match=r"begun with --epochs 4 \(now 6\).*--restart"):
        train(Options(epochs=6))
    assert RunFiles("mine").output("scan").exists()
    assert train(Options(epochs=6, restart=True)) is not None
    assert train(Options(epochs=6, checkpoint_seconds=9)) is None


def test_a_stage_begins_again_when_an_earlier_one_has_changed(tmp_path, capsys):
    earlier = tmp_path / "pretext.pt"
    earlier.write_bytes(b"first")
    train(Options(), [earlier])
    assert train(Options(), [earlier]) is None
    earlier.write_bytes(b"second")
    assert train(Options(), [earlier]) is not None
    assert "an earlier stage has changed" in capsys.readouterr().out


def test_options_that_a_stage_settled_by_itself_are_recalled():
    with pytest.raises(Interrupted):
        train(Options(epochs=9, minutes=1), stop_in=(2, 0), settle=3)
    resumed = Options(epochs=9, minutes=1)  # the same command
    train(resumed, settle=7)
    assert resumed.epochs == 3
    assert train(Options(epochs=9, minutes=1)) is None
    again = Options(epochs=3, minutes=1, restart=True)
    train(again, settle=4)
    assert again.epochs == 4


def test_an_interruption_before_the_first_stored_state_leaves_the_options_as_asked():
    with pytest.raises(Interrupted):
        train(Options(epochs=9, minutes=1), stop_in=(0, 0), settle=3)
    config = Options(epochs=3, minutes=1)  # as read back from the stored configuration
    TrainingSession(config, "scan", choose_hardware("cpu"))
    assert config.epochs == 9


def test_what_a_script_took_before_its_session_counts(monkeypatch):
    clock = Clock(monkeypatch)
    session = TrainingSession(Options(), "scan", choose_hardware("cpu"), started=clock.now - 7)
    assert session.start_up == session.seconds == 7
    clock.now += 5
    assert (session.start_up, session.seconds) == (7, 12)
    assert TrainingSession(Options(), "scan", choose_hardware("cpu")).start_up == 0


def train_by_the_clock(session, clock, epochs, steps, step_seconds):
    """The epochs and the steps that an endless stage comes to in its time."""
    trained = []
    for epoch in session.epochs(epochs, steps, model=nn.Linear(1, 1)):
        for step in session.in_time(range(steps)):
            session.record(1, loss=0.0)
            trained.append((epoch, step))
            clock.now += step_seconds
    return trained


def test_without_a_deadline_every_batch_is_yielded(monkeypatch):
    clock = Clock(monkeypatch)
    session = TrainingSession(Options(), "scan", choose_hardware("cpu"))
    trained = train_by_the_clock(session, clock, epochs=3, steps=4, step_seconds=1e6)
    assert trained == [(epoch, step) for epoch in range(3) for step in range(4)]
    assert session.time_used == 0


def test_training_ends_at_its_deadline(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    session = TrainingSession(Options(), "scan", choose_hardware("cpu"), started=clock.now - 7)
    clock.now += 3
    session.end_training_in(50)
    clock.now += 10
    assert session.time_used == pytest.approx(0.2)
    trained = train_by_the_clock(session, clock, epochs=9, steps=3, step_seconds=8)
    # Begun after 10, 18, 26 | 34, 42 of the 50 s: the fifth is the last.
    assert trained == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    assert session.time_used == 1
    assert "scan: the time is up after 2 of 9 epochs" in capsys.readouterr().out
    assert [row["epoch"] for row in session.history] == [1, 2]


def test_the_last_planned_epoch_is_not_told_to_be_cut_short(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    session = TrainingSession(Options(), "scan", choose_hardware("cpu"))
    session.end_training_in(4)
    assert len(train_by_the_clock(session, clock, epochs=2, steps=2, step_seconds=1)) == 4
    assert session.time_used == 1
    assert "the time is up" not in capsys.readouterr().out


@pytest.mark.parametrize("seconds", [0, -20])
def test_a_late_stage_trains_one_step(monkeypatch, seconds):
    clock = Clock(monkeypatch)
    session = TrainingSession(Options(), "scan", choose_hardware("cpu"))
    session.end_training_in(seconds)
    clock.now += 0.5
    assert session.time_used == 1
    assert train_by_the_clock(session, clock, epochs=3, steps=4, step_seconds=1) == [(0, 0)]


def test_a_resumed_stage_keeps_its_deadline(monkeypatch, capsys):
    """A pause does not count, and neither is the time given again."""
    clock = Clock(monkeypatch)
    session = TrainingSession(Options(), "scan", choose_hardware("cpu"))
    session.end_training_in(100)
    with pytest.raises(Interrupted):
        for epoch in session.epochs(9, 1, model=nn.Linear(1, 1)):
            if epoch == 2:
                raise Interrupted
            session.record(1, loss=0.0)
            clock.now += 30
    clock.now += 5000
    resumed = TrainingSession(Options(), "scan", choose_hardware("cpu"), started=clock.now - 5)
    trained = train_by_the_clock(resumed, clock, epochs=9, steps=1, step_seconds=30)
    # Two epochs took 60 s, the new start 5 s: steps begin after 65 and 95 of the 100 s.
    assert trained == [(2, 0), (3, 0)]
    assert "scan: the time is up after 4 of 9 epochs" in capsys.readouterr().out
    assert resumed.seconds == 125


def test_the_record_tells_how_a_stage_ended(monkeypatch):
    clock = Clock(monkeypatch)
    session = TrainingSession(Options(), "scan", choose_hardware("cpu"))
    session.begin()
    clock.now += 12.34
    information = {"scan": 0.5, "kmeans": 0.75}
    path = session.finish({"weights": {}}, kept="kmeans", information=information)
    record = read_json(RunFiles("mine").config("scan"))
    assert (record["kept"], record["information"]) == ("kmeans", information)
    assert record["seconds"] == 12.3 and record["config"]["run"] == "mine"
    assert load_checkpoint(path)["stage"] == "scan"


def test_one_pretext_is_not_taken_for_the_other():
    train(Options(), stage="simclr")
    with pytest.raises(UserError, match=r"made by simclr\.py; add --restart"):
        train(Options(), stage="moco")
    assert train(Options(restart=True), stage="moco") is not None
    with pytest.raises(UserError, match=r"made by moco\.py"):
        train(Options(), stage="simclr")
    assert not RunFiles("mine").config("simclr").exists()


def test_a_loss_that_is_not_finite_stops_the_stage():
    session = TrainingSession(Options(), "scan", choose_hardware("cpu"))
    with pytest.raises(UserError, match="epoch 1 is not finite"):
        for _ in session.epochs(2, 1):
            session.record(1, loss=float("nan"))
    assert not RunFiles("mine").output("scan").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"not a checkpoint at all"])
def test_a_damaged_checkpoint_is_one_line(tmp_path, content):
    path = tmp_path / "scan.pt"
    path.write_bytes(content)
    with pytest.raises(UserError, match="cannot be read as a checkpoint") as error:
        load_checkpoint(path)
    assert "\n" not in str(error.value)


def test_checkpoints_hold_no_pickled_objects(tmp_path):
    """A checkpoint from a stranger must not be able to run code."""
    torch.save({"format": 1, "options": Options()}, tmp_path / "scan.pt")
    with pytest.raises(UserError):
        load_checkpoint(tmp_path / "scan.pt")


def test_a_foreign_file_is_refused(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "scan.pt")
    with pytest.raises(UserError, match="not a checkpoint of this version"):
        load_checkpoint(tmp_path / "scan.pt")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "scan.pt"
    save_checkpoint(path, {"value": 1})

    def fail(temporary):
        temporary.write_bytes(b"half")
        raise OSError("no space left on device")

    with pytest.raises(OSError):
        write_atomically(path, fail)
    assert load_checkpoint(path)["value"] == 1
    assert list(tmp_path.iterdir()) == [path]
