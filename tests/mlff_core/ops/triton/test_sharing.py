"""Whether other processes have the card, too."""

import logging

import pytest
import torch

from mlff_core.ops.triton.sharing import bytes_of_others, tell_of_others

CARD = torch.device("cuda", 0)
GIB = 2**30


@pytest.fixture
def card(monkeypatch):
    """A card of 140 GiB; called with what is taken of it, and what of that is PyTorch's here."""

    def has(taken: float, ours: float) -> None:
        free = int((140 - taken) * GIB)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 140 * GIB))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: int(ours * GIB))

    tell_of_others.cache_clear()
    yield has
    tell_of_others.cache_clear()


def test_ones_own_memory_and_context_are_not_others(card, caplog):
    card(taken=60.7, ours=60)
    assert bytes_of_others(CARD) == 0
    tell_of_others(CARD)
    assert caplog.records == []


def test_of_others_is_told_once(card, caplog):
    card(taken=24, ours=3.5)
    assert bytes_of_others(CARD) == int(20.5 * GIB)
    with caplog.at_level(logging.WARNING):
        tell_of_others(CARD)
        tell_of_others(CARD)
    [record] = caplog.records
    assert "about 20 GiB of cuda:0" in record.getMessage()
