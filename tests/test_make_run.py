"""`make run`: the scripts that it calls, in which order and with what, told by a python that only
writes down its arguments."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.conftest import PROJECT

pytestmark = pytest.mark.skipif(
    os.name == "nt" or shutil.which("make") is None, reason="needs make and a POSIX shell"
)

RECORDER = f"""#!{sys.executable}
import json, os, pathlib, sys
if sys.argv[1] == "-c":
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
with open("calls.jsonl", "a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
if sys.argv[1] == os.environ.get("FAILS"):
    sys.exit(2)
records = pathlib.Path("ckp", os.environ["RUN"])
records.mkdir(parents=True, exist_ok=True)
if sys.argv[1] == "choose_clusters.py":
    (records / "clusters.json").write_text('{{"recommended": 7}}')
if sys.argv[1] == "scan.py":
    (records / "scan.json").write_text("{{}}")
"""


@pytest.fixture
def make_run(tmp_path, monkeypatch):
    """Calls `make run` in an empty folder; gives what it has called, and what it said."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "python").write_text(RECORDER)
    (programs / "python").chmod(0o755)
    (programs / "installed").touch()
    for name in ("DATA", "RUN", "INIT", "MINUTES", "CLUSTERS", "MAKEFLAGS", "MAKELEVEL"):
        monkeypatch.delenv(name, raising=False)

    def run(*variables: str, status: int = 0) -> tuple[list[list[str]], str]:
        for needed in ("requirements.txt", "constraints.txt"):
            (tmp_path / needed).touch()
            os.utime(tmp_path / needed, (0, 0))
        calls = tmp_path / "calls.jsonl"
        calls.unlink(missing_ok=True)
        command = ["make", "-f", PROJECT / "Makefile", "run", f"BIN={programs}", f"VENV={programs}"]
        done = subprocess.run([*command, *variables], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == status, done.stderr
        lines = calls.read_text().splitlines() if calls.exists() else []
        return [json.loads(line) for line in lines], done.stderr

    return run


def test_the_whole_chain_with_the_recommended_number(make_run):
    assert make_run("DATA=my photos", "RUN=holiday")[0] == [
        ["simclr.py", "--data", "my photos", "--run", "holiday"],
        ["extract_features.py", "--run", "holiday"],
        ["choose_clusters.py", "--run", "holiday"],
        ["scan.py", "--run", "holiday", "--clusters", "7"],
        ["selflabel.py", "--run", "holiday"],
        ["predict.py", "--run", "holiday", "my photos", "--gallery", "--out", "out/holiday"],
    ]


def test_what_is_said_is_passed_on(make_run):
    calls = make_run("DATA=photos", "RUN=holiday", "CLUSTERS=12", "MINUTES=60", "INIT=resnet18")[0]
    assert calls[0][-4:] == ["--init", "resnet18", "--minutes", "60"]
    assert [call[0] for call in calls if "--clusters" in call] == ["scan.py"]
    assert calls[2][-2:] == ["--clusters", "12"]


def test_a_second_call_keeps_the_number_of_the_first(make_run):
    first = make_run("DATA=photos", "RUN=holiday", "CLUSTERS=12")[0]
    assert ["scan.py", "--run", "holiday", "--clusters", "12"] in first
    second = make_run("DATA=photos", "RUN=holiday")[0]
    assert ["scan.py", "--run", "holiday"] in second and len(second) == 5


def test_a_folder_below_home_is_found_whichever_shell_calls(make_run, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    calls = make_run("DATA=~/my photos", "RUN=holiday")[0]
    assert calls[0][2] == calls[-1][3] == "/home/somebody/my photos"


@pytest.mark.parametrize("script", ["simclr.py", "choose_clusters.py", "scan.py"])
def test_a_failing_stage_ends_the_chain(make_run, monkeypatch, script):
    monkeypatch.setenv("FAILS", script)
    assert make_run("DATA=photos", "RUN=holiday", status=2)[0][-1][0] == script


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ([], "which folder has the images"),
        (["RUN=holiday"], "which folder has the images"),
        (["DATA=photos"], "how the run is to be called"),
        (["DATA=photos", "RUN="], "how the run is to be called"),
    ],
)
def test_without_folder_or_name_one_line_says_so(make_run, variables, words):
    calls, said = make_run(*variables, status=2)
    assert calls == [] and words in said and said.count("\n") == 1
