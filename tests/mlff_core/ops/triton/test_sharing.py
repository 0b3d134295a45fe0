"""Whether this process has the card for itself."""

import logging

import pytest
import torch

from mlff_core.chem.molecule import ChemistrySettings
from mlff_core.ops.triton.sharing import ALONE, alone, bytes_of_others, share, tell_of_others
from tasks import opened

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


def test_nobody_is_alone_unless_told_so_and_never_beside_processes_of_ones_own(monkeypatch):
    monkeypatch.delenv(ALONE, raising=False)
    assert not alone()
    share()
    monkeypatch.setenv(ALONE, "1")
    assert alone()
    share()
    assert not alone()


@pytest.mark.parametrize(("device", "expected"), [("cuda", False), ("cpu", True)])
def test_who_embeds_on_the_card_shares_it(device, expected, monkeypatch):
    monkeypatch.setenv(ALONE, "1")
    monkeypatch.setattr(opened, "EmbeddingProcesses", lambda *_: object())
    monkeypatch.setattr(opened, "_PROCESSES", opened.Opened[object](lambda _: None))
    opened.embedding_processes("run", ChemistrySettings(), 1, device)
    assert alone() == expected


def test_ones_own_memory_and_context_are_not_others(card, caplog, monkeypatch):
    monkeypatch.setenv(ALONE, "1")
    card(taken=60.7, ours=60)
    assert bytes_of_others(CARD) == 0
    tell_of_others(CARD)
    assert caplog.records == []


@pytest.mark.parametrize("said", [True, False])
def test_of_others_is_told_once_and_only_who_says_that_there_are_none(
    said, card, caplog, monkeypatch
):
    monkeypatch.setenv(ALONE, "1" if said else "0")
    card(taken=24, ours=3.5)
    assert bytes_of_others(CARD) == int(20.5 * GIB)
    with caplog.at_level(logging.WARNING):
        tell_of_others(CARD)
        tell_of_others(CARD)
    assert len(caplog.records) == said
    assert all("about 20 GiB of cuda:0" in record.getMessage() for record in caplog.records)
