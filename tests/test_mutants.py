"""The deliberate faults of `make mutants` still fit the code; whether they are caught, it shows."""

import ast

import pytest

from tests.conftest import PROJECT
from tests.mutants import MUTANTS, mutated


def test_there_are_enough_of_them_and_none_twice():
    assert len(MUTANTS) >= 20
    assert len({mutant.fault for mutant in MUTANTS}) == len(MUTANTS)
    assert len({(mutant.file, mutant.before, mutant.after) for mutant in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.fault)
def test_a_fault_can_be_put_in_and_is_code(mutant):
    ast.parse(mutated(mutant, PROJECT))
    assert all((PROJECT / "tests" / test).exists() for test in mutant.tests)
