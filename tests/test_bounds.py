"""Every option that is a number has bounds; what is not a number within them is one line."""

import dataclasses
import importlib
import sys
import typing
from contextlib import suppress
from pathlib import Path

import pytest

from configs.base_config import ScriptConfig
from configs.bounds import BOUNDS, parse_numbers
from configs.config_ablation import AblationConfig
from configs.config_label import LabelConfig
from configs.config_simclr import SimCLRConfig
from src_py.run.errors import UserError
from src_py.run.options import parse
from tests.conftest import PROJECT

MODULES = sorted(path.stem for path in (PROJECT / "configs").glob("config_*.py"))


def config_classes():
    for module in MODULES:
        for value in vars(importlib.import_module(f"configs.{module}")).values():
            if isinstance(value, type) and issubclass(value, ScriptConfig):
                yield value


def is_number(field):
    words = str(field.type).replace("|", " ").split()
    return "int" in words or "float" in words or field.type in (int, float)


@pytest.mark.parametrize("config_class", sorted(set(config_classes()), key=lambda c: c.__name__))
def test_every_number_has_bounds(config_class):
    for field in dataclasses.fields(config_class):
        if is_number(field):
            lowest, highest = BOUNDS[field.name]
            assert lowest < highest
            assert field.default is None or lowest <= field.default <= highest


@pytest.mark.parametrize("config_class", sorted(set(config_classes()), key=lambda c: c.__name__))
def test_every_choice_can_be_given(config_class):
    for name, kind in typing.get_type_hints(config_class).items():
        for part in (kind, *typing.get_args(kind)):
            if typing.get_origin(part) is typing.Literal:
                for choice in typing.get_args(part):
                    with suppress(UserError):  # one that asks for another option, in words
                        assert getattr(config_class(**{name: choice}), name) == choice


@pytest.fixture
def refusal(monkeypatch, tmp_path):
    """What is said of a command line that must be refused."""
    monkeypatch.chdir(tmp_path)

    def refused(config_class, script, *arguments):
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *arguments])
        with pytest.raises(UserError) as error:
            parse(config_class, script, None)
        said = str(error.value)
        assert said.isprintable() and len(said) < 400
        return said

    return refused


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("temperature", "nan", "must be a finite number"),
        ("temperature", "-inf", "must be a finite number"),
        ("temperature", "0", "must be at least 0.001"),
        ("minutes", "1e308", "must be at most"),
        ("minutes", "1e999", "must be a finite number"),
        ("momentum", "1", "must be below 1"),
        ("projection-dim", "9" * 30, "must be at most"),
        ("projection-dim", "9" * 3000, "must be at most"),
        ("image-size", "100000", "must be at most"),
        ("epochs", "²", "--epochs"),
        ("epochs", "9" * 5000, "too many"),
        ("augment.rotate", "nan", "rotate"),
        ("augment.brightness", "inf", "brightness"),
        ("augment.strong-ops", "9" * 30, "strong_ops"),
        ("run", "x" * 300, "usable as a folder's name"),
        ("run", "two\nlines", "usable as a folder's name"),
        ("run", "\udcff", "usable as a folder's name"),
        ("data", "x" * 5000, "too many"),
    ],
)
def test_what_is_no_number_within_bounds_is_refused(refusal, option, value, words):
    assert words in refusal(SimCLRConfig, "simclr", f"--{option}", value)


def test_an_open_quote_is_said(refusal):
    assert "no closing quotation" in refusal(AblationConfig, "ablation", "--scan=--epochs '4")


@pytest.mark.parametrize("text", ["²", "", "1,,2", "-1", "1.5", "9" * 30, "٣"])
def test_lists_of_numbers_hold_nothing_else(refusal, text):
    assert "--seeds" in refusal(AblationConfig, "ablation", "--seeds", text)


def test_lists_of_numbers():
    assert parse_numbers("--seeds", "0,07,4294967295", 0, 2**32 - 1) == [0, 7, 2**32 - 1]
    with pytest.raises(UserError, match="at most 5"):
        parse_numbers("--widths", "1,6", 1, 5)


@pytest.mark.parametrize("text", ["²", "9" * 3000, "", "1 2"])
def test_numbers_of_clusters(text):
    with pytest.raises(UserError, match="not the number of a cluster"):
        _ = LabelConfig(merge=(f"1,{text}",)).groups
    with pytest.raises(UserError, match="not the number of a cluster"):
        _ = LabelConfig(name=(f"{text}=cat",)).names


def test_a_config_made_in_python_is_checked_too():
    with pytest.raises(UserError, match="--batch-size"):
        SimCLRConfig(batch_size=0, data=Path("photos"))
