"""Sorting files into folders: nothing overwritten, nothing lost, nothing twice."""

import errno
import os
from pathlib import Path

import pytest

from src_py.output import sorting
from src_py.output.prediction import Prediction
from src_py.output.sorting import (
    begin_moves,
    end_moves,
    finish_moves,
    folder_names,
    moves_left,
    plan,
    safe_name,
    sort_files,
)
from src_py.run.files import write_record


def write(path, content="x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


CLUSTERS = {"cat": 3, "dog": 5}


def predicted(path, name="cat", confidence=0.9):
    return Prediction(path, CLUSTERS.get(name, 7), name, confidence)


def tree(folder):
    """Content by relative path of every file below a folder, links followed."""
    files = (path for path in sorted(folder.rglob("*")) if not path.is_dir())
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files}


def sort(predictions, out, method="copy", unsure=0.0):
    return sort_files(planned(predictions, out, unsure), method)


def planned(predictions, out, unsure=0.0):
    return plan(predictions, out, unsure, folder_names({p.cluster: p.name for p in predictions}))


@pytest.fixture
def photos(tmp_path):
    """Two files of one name and another, as predictions."""
    folder = tmp_path / "photos"
    return [
        predicted(write(folder / "a" / "1.png", "one")),
        predicted(write(folder / "b" / "1.png", "two")),
        predicted(write(folder / "2.png", "three"), "dog", confidence=0.4),
    ]


SORTED = {"cat/1.png": "one", "cat/1 (2).png": "two", "dog/2.png": "three"}


@pytest.mark.parametrize("method", ["copy", "link", "move"])
def test_each_name_is_a_folder(photos, tmp_path, method):
    outcome = sort(photos, tmp_path / "out", method)
    assert (outcome.placed, outcome.present, outcome.failures) == (3, 0, [])
    assert tree(tmp_path / "out") == SORTED
    assert [p.path.exists() for p in photos] == [method != "move"] * 3
    assert (tmp_path / "out" / "cat" / "1.png").is_symlink() == (method == "link")


@pytest.mark.parametrize("method", ["copy", "link"])
def test_a_second_run_adds_nothing(photos, tmp_path, method):
    sort(photos, tmp_path / "out", method)
    outcome = sort(photos, tmp_path / "out", method)
    assert (outcome.placed, outcome.present) == (0, 3)
    assert tree(tmp_path / "out") == SORTED


def test_a_file_that_is_there_is_never_overwritten(photos, tmp_path):
    out = tmp_path / "out"
    write(out / "cat" / "1.png", "somebody's")
    (out / "cat" / "1 (2).png").symlink_to("nowhere")
    sort(photos, out, "move")
    assert (out / "cat" / "1.png").read_text() == "somebody's"
    assert os.readlink(out / "cat" / "1 (2).png") == "nowhere"
    assert (out / "cat" / "1 (3).png").read_text() == "one"
    assert (out / "cat" / "1 (4).png").read_text() == "two"


@pytest.mark.parametrize("method", ["copy", "link", "move"])
def test_a_file_that_appears_after_planning_is_not_overwritten(photos, tmp_path, method):
    out = tmp_path / "out"
    placements = planned(photos, out)
    write(out / "cat" / "1.png", "late")
    outcome = sort_files(placements, method)
    assert outcome.placed == 2
    assert len(outcome.failures) == 1 and "exists" in outcome.failures[0]
    assert (out / "cat" / "1.png").read_text() == "late"
    assert photos[0].path.read_text() == "one"


def test_moving_onto_the_same_content_keeps_the_file(photos, tmp_path):
    write(tmp_path / "out" / "cat" / "1.png", "one")
    outcome = sort(photos[:1], tmp_path / "out", "move")
    assert (outcome.placed, outcome.present) == (0, 1)
    assert photos[0].path.exists()


def test_files_in_their_folder_already_stay(photos, tmp_path):
    out = tmp_path / "out"
    sort(photos, out)
    again = [predicted(path) for path in sorted((out / "cat").iterdir())]
    assert sort([*photos, *again], out, "move").placed == 0
    assert tree(out) == SORTED


def test_identical_files_of_one_name_are_both_placed_once(tmp_path):
    twins = [predicted(write(tmp_path / folder / "1.png")) for folder in "ab"]
    for expected in (2, 0):
        assert sort(twins, tmp_path / "out").placed == expected
    assert set(tree(tmp_path / "out")) == {"cat/1.png", "cat/1 (2).png"}


def test_a_file_named_twice_is_placed_once(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    relative = predicted(Path("photos/a/1.png"))
    assert sort([photos[0], photos[0], relative], tmp_path / "out", "move").placed == 1


def test_names_that_differ_in_case_get_different_files(tmp_path):
    """Some file systems take a.PNG and A.png for the same."""
    images = [predicted(write(tmp_path / name)) for name in ("1/a.PNG", "2/A.png")]
    sort(images, tmp_path / "out")
    assert set(tree(tmp_path / "out")) == {"cat/a.PNG", "cat/A (2).png"}


def test_a_plan_tries_every_number_of_a_name_once(tmp_path, monkeypatch):
    """Many cameras count from one: hundreds of files may have one name."""
    files = (write(tmp_path / str(number) / "1.png", str(number)) for number in range(200))
    images = [predicted(file) for file in files]
    tried, real = [], sorting._key
    monkeypatch.setattr(sorting, "_key", lambda target: tried.append(target) or real(target))
    assert sort(images, tmp_path / "out").placed == 200
    assert len(tried) <= 3 * 200
    tried.clear()
    assert sort(images, tmp_path / "out").present == 200
    assert len(tried) <= 3 * 200


def test_a_second_run_in_another_order_adds_nothing(photos, tmp_path):
    out = tmp_path / "out"
    write(out / "cat" / "1 (2).png", "somebody's")
    sort(photos, out)
    before = tree(out)
    assert before["cat/1 (3).png"] == "two"
    assert sort(photos[::-1], out).present == 3
    assert tree(out) == before


def test_the_unsure_have_a_folder(photos, tmp_path):
    sort(photos, tmp_path / "out", unsure=0.5)
    assert set(tree(tmp_path / "out")) == {"cat/1.png", "cat/1 (2).png", "unsure/2.png"}


def test_planning_touches_nothing(photos, tmp_path):
    placements = planned(photos, tmp_path / "out")
    assert [placement.present for placement in placements] == [False] * 3
    assert not (tmp_path / "out").exists()


def test_one_failure_does_not_stop_the_rest(photos, tmp_path):
    photos[0].path.unlink()
    outcome = sort(photos, tmp_path / "out")
    assert outcome.placed == 2
    (failure,) = outcome.failures
    assert str(photos[0].path) in failure and "\n" not in failure
    assert not list((tmp_path / "out").rglob(".*"))  # no part of a copy


def test_a_moved_link_still_leads_to_its_file(tmp_path):
    real = write(tmp_path / "photos" / "real.png", "real")
    link = tmp_path / "photos" / "link.png"
    link.symlink_to("real.png")
    sort([predicted(link)], tmp_path / "out", "move")
    assert tree(tmp_path / "out") == {"cat/link.png": "real"}
    assert real.exists() and not os.path.lexists(link)


def interrupt(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize("names", ["ab", "ba"])
@pytest.mark.parametrize("killed", [False, True])
def test_a_link_that_is_moved_with_its_file_leads_to_the_new_place(
    tmp_path, names, killed, monkeypatch
):
    photos, out = tmp_path / "photos", tmp_path / "out"
    write(photos / f"{names[0]}.png", "real")
    (photos / f"{names[1]}.png").symlink_to(f"{names[0]}.png")
    predictions = [predicted(photos / "a.png"), predicted(photos / "b.png")]
    if killed:  # between the two
        placements = planned(predictions, out)
        sorting.begin_moves(out, placements, predictions)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(sorting, "_rename", interrupt)
            sorting.sort_files(placements, "move")
        sorting.finish_moves(out)
        sorting.end_moves(out)
    else:
        sort(predictions, out, "move")
    assert tree(out) == {"cat/a.png": "real", "cat/b.png": "real"}
    assert not list(photos.iterdir())


def refuse(number):
    def refusing(*_):
        raise OSError(number, os.strerror(number))

    return refusing


def test_moving_to_another_disk_copies_and_verifies(photos, tmp_path, monkeypatch):
    between_disks(monkeypatch)
    assert sort(photos, tmp_path / "out", "move").placed == 3
    assert tree(tmp_path / "out") == SORTED and not photos[0].path.exists()


def test_a_bad_copy_on_another_disk_keeps_the_file(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(sorting, "_rename", refuse(errno.EXDEV))
    monkeypatch.setattr(sorting, "_copy", lambda source, target: target.write_text("damaged"))
    outcome = sort(photos, tmp_path / "out", "move")
    assert len(outcome.failures) == 3 and "differs" in outcome.failures[0]
    assert all(p.path.exists() for p in photos) and tree(tmp_path / "out") == {}


def between_disks(monkeypatch):
    link = os.link

    def linked(source, target):
        if Path(source).parent != Path(target).parent:
            refuse(errno.EXDEV)()
        link(source, target)

    monkeypatch.setattr(os, "link", linked)


@pytest.mark.parametrize("kind", ["file", "file on another disk", "link"])
def test_a_file_that_cannot_be_removed_is_not_taken_for_moved(tmp_path, monkeypatch, kind):
    photo = tmp_path / "photos" / "1.png"
    if kind == "link":
        write(tmp_path / "real.png")
        photo.parent.mkdir()
        photo.symlink_to(tmp_path / "real.png")
    else:
        write(photo)
    if kind == "file on another disk":
        between_disks(monkeypatch)
    real = os.unlink

    def unlink(path):
        if Path(path) == photo:
            refuse(errno.EACCES)()
        real(path)

    with monkeypatch.context() as patched:
        patched.setattr(os, "unlink", unlink)
        for _ in range(2):  # the second one does not say that it is there
            outcome = sort([predicted(photo)], tmp_path / "out", "move")
            assert (outcome.placed, outcome.present, len(outcome.failures)) == (0, 0, 1)
            assert photo.exists() and tree(tmp_path / "out") == {}
    assert sort([predicted(photo)], tmp_path / "out", "move").placed == 1
    assert not os.path.lexists(photo)


def test_a_file_that_vanishes_while_it_is_moved_is_not_lost(photos, tmp_path, monkeypatch):
    """A server may remove it, lose its answer, and say at the second try that there is none."""
    real = os.unlink

    def unlink(path):
        real(path)
        refuse(errno.ENOENT)()

    monkeypatch.setattr(os, "unlink", unlink)
    assert sort(photos, tmp_path / "out", "move").placed == 3
    assert tree(tmp_path / "out") == SORTED


@pytest.mark.parametrize("method", ["copy", "move"])
def test_file_systems_without_hard_links(photos, tmp_path, monkeypatch, method):
    monkeypatch.setattr(os, "link", refuse(errno.EPERM))
    assert sort(photos, tmp_path / "out", method).placed == 3
    assert tree(tmp_path / "out") == SORTED


def test_links_fall_back_to_hard_links_then_copies(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "symlink_to", refuse(errno.EPERM))
    sort(photos, tmp_path / "hard", "link")
    assert (tmp_path / "hard" / "cat" / "1.png").samefile(photos[0].path)
    monkeypatch.setattr(Path, "hardlink_to", refuse(errno.EPERM))
    sort(photos, tmp_path / "copied", "link")
    assert not (tmp_path / "copied" / "cat" / "1.png").samefile(photos[0].path)
    assert tree(tmp_path / "hard") == tree(tmp_path / "copied") == SORTED


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("cat", "cat"),
        ("black cat", "black cat"),
        ("Käse 猫", "Käse 猫"),
        ("a/b\\c:d", "a_b_c_d"),
        ("..", ""),
        ("../..", ""),
        (".hidden. ", "hidden"),
        ("///", ""),
        ("CON", "CON_"),
        ("nul.txt", "nul.txt_"),
        ("unsure", "unsure_"),
        ("a\tb", "a_b"),
        ("x" * 300, "x" * 200),
    ],
)
def test_folder_names_are_safe(name, safe):
    assert safe_name(name) == safe


def test_a_name_of_which_nothing_is_left_gives_the_number(tmp_path):
    sort([predicted(write(tmp_path / "1.png"), "..")], tmp_path / "out")
    assert set(tree(tmp_path / "out")) == {"cluster_7/1.png"}


def test_names_that_become_one_folder_are_told_apart():
    named = {0: "a/b", 1: "a:b", 2: "A_B ", 3: "unsure", 4: "unsure_", 5: "...", 6: "cat"}
    folders = folder_names(named)
    assert folders[6] == "cat" and folders[5] == "cluster_5"
    assert folders[0] == "a_b (cluster 0)" and folders[2] == "A_B (cluster 2)"
    assert folders[3] == "unsure_ (cluster 3)"
    assert len({name.casefold() for name in folders.values()}) == len(named)


class Killed(BaseException):
    """Stands for SIGKILL."""


@pytest.mark.parametrize("place", ["link", "unlink"])
@pytest.mark.parametrize("call", range(3))
def test_a_killed_move_is_ended_by_the_next_run(photos, tmp_path, monkeypatch, place, call):
    """Before a link, or between it and the removal of the old name."""
    out = tmp_path / "out"
    placements = planned(photos, out)
    begin_moves(out, placements, photos)
    calls, real = iter(range(10)), getattr(os, place)

    def killed(*arguments):
        if next(calls) == call:
            raise Killed
        real(*arguments)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(os, place, killed)
        sort_files(placements, "move")
    assert finish_moves(out) == photos == finish_moves(out)
    end_moves(out)
    assert tree(out) == SORTED and not any(p.path.exists() for p in photos)
    assert finish_moves(out) == []


def test_a_move_that_was_interrupted_leaves_what_is_not_its_own(photos, tmp_path):
    out = tmp_path / "out"
    placements = planned(photos, out)
    begin_moves(out, placements, photos)
    write(out / "cat" / "1.png", "somebody's")
    (out / "dog").mkdir()
    (out / "dog" / "2.png").symlink_to(photos[2].path)  # which leads to the image itself
    finish_moves(out)
    assert photos[0].path.read_text() == "one" and photos[2].path.read_text() == "three"
    assert (out / "cat" / "1.png").read_text() == "somebody's"


def test_an_image_in_the_place_of_one_that_was_to_be_moved_stays(photos, tmp_path):
    """A camera's card with new photos under the old names."""
    out = tmp_path / "out"
    begin_moves(out, planned(photos, out), photos)
    photos[0].path.unlink()  # the second is changed, this is gone
    write(photos[1].path, "another")
    assert moves_left(out) == [photos[2].path]
    assert finish_moves(out) == [photos[0], photos[2]]
    assert photos[1].path.read_text() == "another"
    assert tree(out) == {".moves.json": (out / ".moves.json").read_text(), "dog/2.png": "three"}
    assert moves_left(out) == []


def test_an_image_of_the_same_size_is_told_by_its_time(photos, tmp_path):
    out = tmp_path / "out"
    begin_moves(out, planned(photos, out), photos)
    write(photos[0].path, "new")
    os.utime(photos[0].path, ns=(0, -1))  # before 1970, as cameras without a clock have it
    assert finish_moves(out) == photos[1:] and photos[0].path.read_text() == "new"


def test_a_record_of_before_moves_nothing_it_does_not_know(photos, tmp_path):
    """It had no sizes and times: only what is in both places is known to be the same."""
    out = tmp_path / "out"
    placements = planned(photos, out)
    moves = [[str(p.source), str(p.target)] for p in placements]
    rows = [[str(p.path), *p[1:]] for p in photos]
    write_record(out / ".moves.json", {"moves": moves, "predictions": rows})
    (out / "cat").mkdir()
    os.link(photos[0].path, out / "cat" / "1.png")
    assert finish_moves(out) == photos[:1]
    assert [p.path.exists() for p in photos] == [False, True, True]


def test_parts_of_copies_of_killed_processes_are_removed(photos, tmp_path):
    left = write(tmp_path / "out" / "cat" / f".{2**22 + 1}.part")
    sort(photos, tmp_path / "out", "copy")
    assert not left.exists()
