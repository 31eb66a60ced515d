"""Checkpoints, resume and logs of a training stage."""

import csv
import math

import pytest
import torch
from torch import nn

from configs.config_scan import ScanConfig
from src_py.run import session as session_module
from src_py.run.checkpoints import load_checkpoint, save_checkpoint
from src_py.run.errors import UserError
from src_py.run.files import RunFiles, write_atomically
from src_py.run.hardware import choose_hardware
from src_py.run.schedule import Schedule, Step
from src_py.run.session import TrainingSession
from src_py.run.stages import LABELS_FILE
from tests.made_runs import SETTINGS, write_data


def options(run="mine", epochs=4, checkpoint_seconds=0.0, **others):
    return ScanConfig(run=run, epochs=epochs, checkpoint_seconds=checkpoint_seconds, **others)


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


def schedule_of(epochs, images=8):
    return Schedule(images, epochs, images, batch_size=4)


def measured(loss=0.0):
    return Step(1, {"loss": torch.tensor(loss)})


def train(config, made_from=(), stop_in=None, stage="scan"):
    """A stage in small: its weights depend on every epoch's random numbers."""
    session = TrainingSession(config, stage, choose_hardware("cpu"), made_from)
    if session.is_finished:
        return None
    torch.manual_seed(config.seed)
    model = nn.Linear(3, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for epoch in session.epochs(schedule_of(config.epochs), model=model, optimizer=optimizer):
        generator = session.generator(epoch)
        for step in range(2):
            if stop_in == (epoch, step):
                raise Interrupted
            loss = model(torch.randn(4, 3, generator=generator)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            session.record(Step(4, {"loss": loss}))
    session.finish({"weights": model.state_dict()})
    return model.state_dict()


@pytest.mark.parametrize("stop_in", [(0, 1), (2, 0), (3, 1)])
def test_an_interrupted_stage_ends_with_the_same_weights(stop_in):
    whole = train(options(run="whole"))
    with pytest.raises(Interrupted):
        train(options(), stop_in=stop_in)
    assert RunFiles("mine").partial("scan").exists() == (stop_in[0] > 0)
    resumed = train(options())
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert not RunFiles("mine").partial("scan").exists()
    stored = load_checkpoint(RunFiles("mine").output("scan"))["weights"]
    assert all(torch.equal(whole[name], stored[name]) for name in whole)


def test_the_log_has_one_row_an_epoch_also_after_a_resume():
    with pytest.raises(Interrupted):
        train(options(), stop_in=(2, 1))
    train(options())
    with RunFiles("mine").log("scan").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert {"loss", "images_per_second", "seconds"} <= rows[0].keys()


def test_the_log_of_short_epochs_is_not_written_after_each(monkeypatch):
    written = []
    monkeypatch.setattr(session_module, "LOG_EVERY", 3600)
    monkeypatch.setattr(session_module, "write_table", lambda _, __, rows: written.append(rows))
    train(options())
    assert [len(rows) for rows in written] == [1, 4]  # the first and the last of four


def test_a_finished_stage_says_so_and_stops(capsys):
    train(options())
    assert train(options()) is None
    assert "finished already" in capsys.readouterr().out
    assert train(options(restart=True)) is not None


def test_other_options_are_refused_until_restart():
    train(options())
    with pytest.raises(UserError, match=r"begun with --epochs 4 \(now 6\).*--restart"):
        train(options(epochs=6))
    assert RunFiles("mine").output("scan").exists()
    assert train(options(epochs=6, restart=True)) is not None
    assert train(options(epochs=6, checkpoint_seconds=9)) is None


def test_a_stage_begins_again_when_an_earlier_one_has_changed(tmp_path, capsys):
    earlier = tmp_path / "pretext.pt"
    earlier.write_bytes(b"first")
    train(options(), [earlier])
    assert train(options(), [earlier]) is None
    earlier.write_bytes(b"second")
    assert train(options(), [earlier]) is not None
    assert "an earlier stage has changed" in capsys.readouterr().out


def test_self_labelling_begins_again_when_corrections_have_changed(capsys):
    files = RunFiles("mine")
    train(options())
    said = files.corrections
    for content in (None, "path,cluster\na.png,1\n", "path,cluster\na.png,2\n", None):
        if content is None:
            said.unlink(missing_ok=True)
        else:
            said.write_text(content)
        inputs = [files.output("scan"), *files.heeded("selflabel")]
        assert train(options(), inputs, stage="selflabel") is not None
        assert train(options(), inputs, stage="selflabel") is None
    told = capsys.readouterr().out
    assert told.count(f"selflabel: {said} has changed since; training again") == 3


def test_what_a_script_took_before_its_session_counts(monkeypatch):
    clock = Clock(monkeypatch)
    session = TrainingSession(options(), "scan", choose_hardware("cpu"), started=clock.now - 7)
    assert session.start_up == session.seconds == 7
    clock.now += 5
    assert (session.start_up, session.seconds) == (7, 12)
    assert TrainingSession(options(), "scan", choose_hardware("cpu")).start_up == 0


def train_by_the_clock(session, clock, epochs, steps, step_seconds):
    """The epochs and the steps that an endless stage comes to in its time."""
    trained = []
    for epoch in session.epochs(schedule_of(epochs, steps), model=nn.Linear(1, 1)):
        for step in session.in_time(range(steps)):
            session.record(measured())
            trained.append((epoch, step))
            clock.now += step_seconds
    return trained


def test_without_a_deadline_every_batch_is_yielded(monkeypatch):
    clock = Clock(monkeypatch)
    session = TrainingSession(options(), "scan", choose_hardware("cpu"))
    trained = train_by_the_clock(session, clock, epochs=3, steps=4, step_seconds=1e6)
    assert trained == [(epoch, step) for epoch in range(3) for step in range(4)]
    assert session.time_used == 0


def test_training_ends_at_its_deadline(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    session = TrainingSession(options(), "scan", choose_hardware("cpu"), started=clock.now - 7)
    clock.now += 3
    session.end_training_in(50)
    clock.now += 10
    assert session.time_used == pytest.approx(0.2)
    trained = train_by_the_clock(session, clock, epochs=9, steps=3, step_seconds=8)
    # Begun after 10, 18, 26 | 34, 42 of the 50 s: the fifth is the last.
    assert trained == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]
    assert session.time_used == 1
    assert "scan: the time is up in epoch 2" in capsys.readouterr().out
    assert [row["epoch"] for row in session.history] == [1, 2]


def test_the_last_planned_epoch_is_not_told_to_be_cut_short(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    session = TrainingSession(options(), "scan", choose_hardware("cpu"))
    session.end_training_in(4)
    assert len(train_by_the_clock(session, clock, epochs=2, steps=2, step_seconds=1)) == 4
    assert session.time_used == 1
    assert "the time is up" not in capsys.readouterr().out


@pytest.mark.parametrize("seconds", [0, -20])
def test_a_late_stage_trains_one_step(monkeypatch, seconds):
    clock = Clock(monkeypatch)
    session = TrainingSession(options(), "scan", choose_hardware("cpu"))
    session.end_training_in(seconds)
    clock.now += 0.5
    assert session.time_used == 1
    assert train_by_the_clock(session, clock, epochs=3, steps=4, step_seconds=1) == [(0, 0)]


def test_a_resumed_stage_keeps_its_deadline(monkeypatch, capsys):
    """A pause does not count, and neither is the time given again."""
    clock = Clock(monkeypatch)
    session = TrainingSession(options(), "scan", choose_hardware("cpu"))
    session.end_training_in(100)
    with pytest.raises(Interrupted):
        for epoch in session.epochs(schedule_of(9, 1), model=nn.Linear(1, 1)):
            if epoch == 2:
                raise Interrupted
            session.record(measured())
            clock.now += 30
    clock.now += 5000
    resumed = TrainingSession(options(), "scan", choose_hardware("cpu"), started=clock.now - 5)
    trained = train_by_the_clock(resumed, clock, epochs=9, steps=1, step_seconds=30)
    # Two epochs took 60 s, the new start 5 s: steps begin after 65 and 95 of the 100 s.
    assert trained == [(2, 0), (3, 0)]
    assert "scan: the time is up in epoch 4" in capsys.readouterr().out
    assert resumed.seconds == 125


def test_the_record_tells_how_a_stage_ended(monkeypatch):
    clock = Clock(monkeypatch)
    session = TrainingSession(options(), "scan", choose_hardware("cpu"))
    session.begin()
    clock.now += 12.34
    information = {"scan": 0.5, "kmeans": 0.75}
    path = session.finish({"weights": {}}, kept="kmeans", information=information)
    record = RunFiles("mine").record("scan")
    assert (record["kept"], record["information"]) == ("kmeans", information)
    assert record["seconds"] == 12.3 and record["config"]["run"] == "mine"
    assert load_checkpoint(path)["stage"] == "scan"


def test_one_pretext_is_not_taken_for_the_other():
    train(options(), stage="simclr")
    with pytest.raises(UserError, match=r"made by simclr\.py; add --restart"):
        train(options(), stage="moco")
    assert train(options(restart=True), stage="moco") is not None
    with pytest.raises(UserError, match=r"made by moco\.py"):
        train(options(), stage="simclr")
    assert not RunFiles("mine").config("simclr").exists()


def test_a_loss_that_is_not_finite_stops_the_stage():
    session = TrainingSession(options(), "scan", choose_hardware("cpu"))
    with pytest.raises(UserError, match="epoch 1 is not finite"):
        for _ in session.epochs(schedule_of(2, 1)):
            session.record(measured(math.nan))
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
    torch.save({"format": 2, "options": options()}, tmp_path / "scan.pt")
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


def test_names_of_clusters_stay_until_the_classifier_is_replaced(capsys):
    train(options())
    names, corrections = RunFiles("mine").checkpoints / LABELS_FILE, RunFiles("mine").corrections
    names.write_text("{}")
    corrections.write_text("path,cluster\n")
    session = TrainingSession(options(restart=True), "scan", choose_hardware("cpu"))
    assert names.exists() and corrections.exists()  # heads are trained now, or Ctrl-C is pressed
    session.begin()
    assert names.exists() and corrections.exists() and RunFiles("mine").output("scan").exists()
    session.finish({"weights": {}})
    assert not names.exists() and names.with_name("labels.old.json").exists()
    assert not corrections.exists() and corrections.with_name("corrections.old.csv").exists()
    assert load_checkpoint(RunFiles("mine").output("scan"))["weights"] == {}
    assert capsys.readouterr().out.count("is about the clusters of an earlier training") == 2


def test_what_a_run_remembers_is_replaced_together_with_its_network():
    files = RunFiles("mine")
    write_data(files, {"root": "a"})
    train(options(), stage="simclr")
    network = files.output("simclr").read_bytes()
    session = TrainingSession(options(restart=True), "simclr", choose_hardware("cpu"))
    other = files.settled() | {"settings": SETTINGS | {"root": "b", "image_size": 32}}
    session.remember(other)
    session.begin()  # and is killed: the run is what it was, and the first stage knows of both
    assert files.settled()["settings"]["root"] == "a" and files.settled("simclr") == other
    assert files.output("simclr").read_bytes() == network
    assert files.made(files.output("simclr"), "simclr")
    session.finish({"weights": {}})
    assert files.settled() == files.settled("simclr") == other
    assert files.made(files.output("simclr"), "simclr")


def test_an_unfinished_first_stage_is_not_replaced_by_the_other(monkeypatch):
    write_data(RunFiles("mine"))
    begun = TrainingSession(options(), "simclr", choose_hardware("cpu"))
    with pytest.raises(Interrupted):
        for _ in begun.epochs(schedule_of(4), model=nn.Linear(3, 1)):
            if RunFiles("mine").partial("simclr").exists():
                raise Interrupted
            begun.record(measured())
    with pytest.raises(UserError, match="an unfinished simclr"):
        TrainingSession(options(), "moco", choose_hardware("cpu"))
    TrainingSession(options(restart=True), "moco", choose_hardware("cpu"))
    assert TrainingSession(options(), "simclr", choose_hardware("cpu")).is_resumable


def test_a_first_stage_does_not_go_on_with_other_images():
    images = {"count": 8, "key": "a", "pixels": "p", "listing": "l"}
    settled = {"preset": "digits", "recipe": "best", "minutes": None, "settings": SETTINGS}
    begun = TrainingSession(options(), "simclr", choose_hardware("cpu"))
    begun.remember(settled | {"images": images})
    with pytest.raises(Interrupted):
        for _ in begun.epochs(schedule_of(4), model=nn.Linear(3, 1)):
            if RunFiles("mine").partial("simclr").exists():
                raise Interrupted
            begun.record(measured())
    for key, pixels, refused in (("b", "p", False), ("a", "p", False), ("b", "q", True)):
        again = TrainingSession(options(), "simclr", choose_hardware("cpu"))
        now = settled | {"images": images | {"key": key, "pixels": pixels}}
        if refused:
            with pytest.raises(UserError, match="other images"):
                again.remember(now)
        else:
            again.remember(now)
