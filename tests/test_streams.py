"""Output that nobody reads costs no work; signals end a script in one line."""

import errno
import os
import signal
import subprocess
import sys

import pytest

from configs.config_scan import ScanConfig
from src_py.run.options import run_script
from src_py.run.streams import LastingStream, Terminated, terminable
from tests.conftest import PROJECT

WORKS = """
import sys
from configs.config_scan import ScanConfig
from src_py.run.options import run_script

def main(config):
    for number in range(20_000):
        print("line", number)
        print("more", file=sys.stderr)
    sys.stdout.flush()
    open("done", "w").close()

run_script(ScanConfig, "scan", main, None)
"""


@pytest.fixture
def work(tmp_path):
    """Runs a script that prints a lot and then leaves a file, through a shell."""
    script = tmp_path / "works.py"
    script.write_text(WORKS)

    def run(redirection):
        command = f'"{sys.executable}" "{script}" {redirection}'
        environment = os.environ | {"PYTHONPATH": str(PROJECT)}
        done = subprocess.run(
            command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
        assert (tmp_path / "done").exists()
        return done

    return run


@pytest.mark.skipif(os.name == "nt", reason="a POSIX shell")
@pytest.mark.parametrize(
    "redirection", ["| head -n 1", ">&- 2>&-", "<&- >&-", "2>&1 | head -n 1", "2>&-"]
)
def test_output_that_is_closed_ends_nothing(work, redirection):
    work(redirection)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_full_disk_under_the_output_is_told_once(work):
    done = work("> /dev/full 2> said")
    assert done.returncode == 0


class WriteOnly:
    """The least that may stand in the place of sys.stdout."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text


def test_a_stream_that_can_only_write_is_enough(monkeypatch):
    stream = WriteOnly()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "argv", ["scan.py"])

    def main(_):
        print("said", flush=True)
        assert not sys.stdout.isatty()

    run_script(ScanConfig, "scan", main, None)
    assert stream.text == "said\n" and sys.stdout is stream


def test_why_it_fell_silent_is_known():
    class Full(WriteOnly):
        def write(self, text):
            raise OSError(errno.ENOSPC, "No space left on device")

    stream = LastingStream(Full())
    assert stream.write("lost") == 4
    assert stream.problem == "No space left on device"
    assert stream.write("also lost") == 9


def test_sigterm_is_an_interruption(monkeypatch, capsys):
    def main(_):
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(sys, "argv", ["scan.py"])
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        run_script(ScanConfig, "scan", main, None)
    assert ended.value.code == 143
    assert "scan.py: ended by SIGTERM; the same command goes on" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_half_written_file_is_taken_away_on_sigterm(tmp_path):
    from src_py.run.files import write_atomically

    def write(path):
        path.write_text("half")
        os.kill(os.getpid(), signal.SIGTERM)

    with terminable(), pytest.raises(Terminated):
        write_atomically(tmp_path / "whole.txt", write)
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_while_a_package_is_imported_is_an_interruption(monkeypatch, capsys):
    def main(_):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise ImportError("numpy.core failed to import")  # noqa: B904

    monkeypatch.setattr(sys, "argv", ["scan.py"])
    with pytest.raises(SystemExit) as ended:
        run_script(ScanConfig, "scan", main, None)
    assert ended.value.code == 130
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_ctrl_c_before_the_script_has_begun_is_one_line(tmp_path):
    """The module that is imported next raises it, as a finger on the keys would."""
    (tmp_path / "tyro.py").write_text("raise KeyboardInterrupt")
    (tmp_path / "argparse.py").write_text("raise KeyboardInterrupt")
    done = subprocess.run(
        [sys.executable, str(PROJECT / "scan.py")],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode in (130, -signal.SIGINT)
    assert done.stderr == "scan.py: interrupted\n"
