"""How many cores and threads, on a machine that other programs use too."""

import multiprocessing
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from src_py.images import memory
from src_py.run import cores as cores_module
from src_py.run.cores import IdleCoreThreads, available_cores
from src_py.run.hardware import choose_hardware
from src_py.run.training_stage import TrainingStage


class Machine:
    """Four cores, a clock, and what Linux tells of them."""

    def __init__(self, monkeypatch, folder):
        self.file = folder / "stat"
        self.now, self.own = 100.0, 0.0
        self.others = [50.0, 0.0, 0.0, 0.0]  # s, on each core
        self.threads = 4
        monkeypatch.setattr(cores_module, "KERNEL_TIMES", self.file)
        clock = SimpleNamespace(monotonic=lambda: self.now, sleep=self.pass_time)
        monkeypatch.setattr(cores_module, "_own_seconds", lambda: self.own)
        monkeypatch.setattr(cores_module, "TORCH_THREADS", 4)
        monkeypatch.setattr(cores_module, "time", clock)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
        monkeypatch.setattr(os, "sysconf", lambda _: 100)
        monkeypatch.setattr(cores_module, "QUOTA", folder / "cpu.max")
        monkeypatch.setattr(torch, "get_num_threads", lambda: self.threads)
        monkeypatch.setattr(torch, "set_num_threads", lambda count: setattr(self, "threads", count))
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        self.load = [0.0, 0.0, 0.0, 0.0]
        self.own_load = 0.0
        self.pass_time(0)

    def pass_time(self, seconds):
        self.now += seconds
        self.own += seconds * self.own_load
        self.others = [
            busy + seconds * share for busy, share in zip(self.others, self.load, strict=True)
        ]
        self.others[3] += seconds * self.own_load
        rows = [
            f"cpu{core} {int(100 * busy)} 0 0 {int(100 * (self.now - busy))} 7 0 0 0 9 9"
            for core, busy in enumerate([*self.others, 77])
        ]
        self.file.write_text("\n".join(["cpu  1 2 3 4 5 6 7 8 9 10", *rows, "ctxt 5", ""]))


@pytest.fixture
def machine(monkeypatch, tmp_path):
    return Machine(monkeypatch, tmp_path)


@pytest.mark.parametrize(
    ("load", "threads"),
    [
        ((0, 0, 0, 0), 4),
        ((0.2, 0.2, 0.1, 0), 4),
        ((1, 0, 0, 0.1), 3),
        ((1, 1, 0.5, 0), 2),
        ((1, 1, 1, 1), 1),
    ],
)
def test_busy_cores_are_left_to_others(machine, capsys, load, threads):
    machine.load = load
    assert choose_hardware("cpu").threads is not None
    assert machine.threads == threads
    assert ("OMP_NUM_THREADS" in capsys.readouterr().out) == (threads < 4)


def test_a_number_of_threads_that_is_set_holds(machine, monkeypatch):
    machine.load = (1, 1, 1, 1)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert choose_hardware("cpu").threads is None
    assert machine.threads == 4


def test_where_nothing_is_told_all_threads_stay(machine, monkeypatch, tmp_path):
    machine.load = (1, 1, 1, 1)
    monkeypatch.setattr(cores_module, "KERNEL_TIMES", tmp_path / "none")
    choose_hardware("cpu")
    assert machine.threads == 4


def test_threads_follow_the_load_but_not_at_every_look(machine):
    kept = IdleCoreThreads()
    machine.own_load = 4.0  # this process's own use is none of another's
    for load, threads in [((0, 0, 0, 0), 4), ((1, 1, 0, 0), 2), ((0.9, 0.6, 0, 0), 2)]:
        machine.load = load
        machine.pass_time(10)
        kept.look_again()
        assert machine.threads == threads
    machine.load = (0, 0, 0, 0)
    machine.pass_time(5)
    assert kept.look_again() is None and machine.threads == 2
    machine.pass_time(100)
    assert "leave 4.0 of 4 cores" in str(kept.look_again())
    assert machine.threads == 4


@pytest.mark.parametrize(("minutes", "threads"), [(1, 1), (None, 4)])
def test_only_a_training_against_the_clock_changes_its_threads(machine, capsys, minutes, threads):
    stage = TrainingStage(None, "scan", choose_hardware("cpu"), seed=0)
    if minutes:
        stage.end_training_in(60 * minutes)
    machine.load = (1, 1, 1, 1)
    for _ in stage.in_time(range(3)):
        machine.pass_time(20)
    assert machine.threads == threads


@pytest.mark.parametrize(
    ("told", "cores"),
    [("max 100000", 4), ("200000 100000", 2), ("30000 100000", 1), ("900000 100000", 4), ("", 4)],
)
def test_a_container_has_as_many_cores_as_its_quota(machine, told, cores):
    cores_module.QUOTA.write_text(told)
    assert available_cores() == cores
    choose_hardware("cpu")
    assert machine.threads == cores


def test_other_programs_use_other_cores_than_those_of_a_quota(machine):
    cores_module.QUOTA.write_text("200000 100000")
    machine.load = (1, 1, 0, 0)
    choose_hardware("cpu")
    assert machine.threads == 2


def test_a_second_script_of_the_process_may_have_all_threads_again(machine):
    machine.load = (1, 1, 1, 0)
    choose_hardware("cpu")
    machine.load = (0, 0, 0, 0)
    choose_hardware("cpu")
    assert machine.threads == 4


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="only Linux tells")
def test_processes_that_work_for_this_one_are_not_others():
    def work():
        deadline = time.process_time() + 0.3
        while time.process_time() < deadline:
            pass
        finished.set()
        ended.wait()

    context = multiprocessing.get_context("fork")
    finished, ended = context.Event(), context.Event()
    before = cores_module._own_seconds()
    worker = context.Process(target=work)
    worker.start()
    finished.wait()
    alive = cores_module._own_seconds() - before
    ended.set()
    worker.join()
    assert alive > 0.2 and cores_module._own_seconds() - before > 0.2


@pytest.mark.parametrize(("told", "bytes_"), [("1000000\n", 10**6), ("max\n", None)])
def test_a_container_has_as_much_memory_as_its_limit(monkeypatch, tmp_path, told, bytes_):
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    monkeypatch.setattr(memory, "MEMORY_LIMIT", tmp_path / "memory.max")
    memory.MEMORY_LIMIT.write_text(told)
    assert memory.machine_memory() == (bytes_ or physical)
