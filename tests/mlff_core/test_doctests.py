"""What docstrings show is what happens."""

import doctest
from importlib import import_module

import pytest


@pytest.mark.parametrize("name", ["mlff_core.batch", "mlff_core.screening"])
def test_the_examples_of_docstrings_run(name: str) -> None:
    module = import_module(name)
    found = doctest.testmod(module)
    assert found.attempted > 1
    assert not found.failed
