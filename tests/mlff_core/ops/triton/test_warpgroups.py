"""Products by warpgroups: the same bits as the kernels whose meaning they have."""

import pytest
import torch

from mlff_core.batch import MolBatch
from mlff_core.models.checkpoint import read_checkpoint
from mlff_core.models.reference import find_model
from mlff_core.ops.triton import tiles, warpgroups
from mlff_core.ops.triton.sharing import ALONE
from mlff_core.ops.triton.tiles import Groups
from mlff_core.testing import drug_like, without_charges


def many_atoms() -> tuple[torch.Tensor, ...]:
    """128 molecules, 5,000 atoms and more, behind which there is room for 300."""
    batch = MolBatch.from_arrays(drug_like()[:128], device="cuda")
    assert batch.n_atoms > tiles.CLASSES["large"]
    room = 300
    return (
        torch.cat([batch.numbers, batch.numbers.new_zeros(room)]),
        torch.cat([batch.positions, batch.positions.new_zeros(room, 3)]),
        torch.cat([batch.mol_idx, batch.mol_idx.new_zeros(room)]),
        batch.ptr,
        batch.charge,
    )


@pytest.mark.gpu
@pytest.mark.skipif(not warpgroups.multiprocessors(), reason="needs a card with warpgroups")
@pytest.mark.parametrize("precision", ["float32", "fast"])
@pytest.mark.parametrize("charges", [True, False])
def test_energies_and_forces_are_to_the_bit_those_without_warpgroups(
    charges, precision, monkeypatch
):
    from mlff_core.ops.triton.engine import TritonEngine

    monkeypatch.setenv(ALONE, "1")
    model = read_checkpoint(find_model("default"))[0]
    assert model.config.charges_after > 0
    model = (model if charges else without_charges(model)).to("cuda").requires_grad_(False)
    engine = TritonEngine(model, precision)
    ways = {engine.weights.forward_precision, engine.weights.backward_precision}
    assert all(tiles.GROUPS[model.config.n_features][way] for way in ways)
    arguments = many_atoms()
    by_warpgroups = [x.clone() for x in engine.step(*arguments)]
    monkeypatch.setattr(warpgroups, "GROUPS", {})
    without = engine.step(*arguments)
    for one, other in zip(by_warpgroups, without, strict=True):
        assert torch.isfinite(one).all()
        assert torch.equal(one, other)


@pytest.mark.parametrize(("capability", "expected"), [((9, 0), 132), ((8, 0), 0), ((10, 0), 0)])
def test_cards_of_other_families_have_none(capability, expected, monkeypatch):
    class Properties:
        multi_processor_count = 132

    monkeypatch.setattr(warpgroups.triton.knobs.runtime, "interpret", False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "get_device_properties", Properties)
    assert warpgroups.multiprocessors.__wrapped__() == expected


def test_there_are_none_where_atoms_are_few_or_no_card_has_them_or_it_is_shared(monkeypatch):
    kernel, groups = next(iter(tiles.GROUPS[256]["fp16x3"].items()))
    monkeypatch.setenv(ALONE, "1")
    assert warpgroups.groups_of(kernel, "fp16x3", 10_000, 256) is None
    monkeypatch.setattr(warpgroups, "multiprocessors", lambda: 132)
    assert warpgroups.groups_of(kernel, "fp16x3", 10_000, 256) == groups
    assert warpgroups.groups_of(kernel, "fp16x3", 10_000, 128) is None
    assert warpgroups.groups_of(kernel, "fp16x3", 1_000, 256) is None
    monkeypatch.delenv(ALONE)
    assert warpgroups.groups_of(kernel, "fp16x3", 10_000, 256) is None


@pytest.mark.parametrize("workers", [2, 3])
def test_threads_have_as_many_registers_as_there_are(workers):
    room = warpgroups.room(workers)
    threads = 128 * (workers + 1)
    assert room.at_launch * threads <= 65536
    assert room.multiplying * workers + warpgroups.FETCHING <= room.at_launch * (workers + 1)
    assert room.multiplying % 8 == room.at_launch % 8 == 0


def test_programs_fill_the_card_with_whole_sets_of_columns(monkeypatch):
    monkeypatch.setattr(warpgroups, "multiprocessors", lambda: 132)
    assert warpgroups.programs(512, Groups(128, 32, 2, 5, True)) == 132
    assert warpgroups.programs(1280, Groups(128, 32, 2, 5, True)) == 130
