"""Prepared molecules get geometries, or the reason why they have none."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mlff_core.chem.constrained import prepare_constraints
from mlff_core.chem.molecule import ChemistrySettings
from mlff_core.chem.topology import rearranged
from mlff_core.embedding import Cause, embed_prepared, embedder
from mlff_core.embedding.schedule import Stage, schedule
from mlff_core.status import MoleculeStatus
from tests.mlff_core.embedding.molecules import SHORT

SETTINGS = ChemistrySettings(n_conformers=2)


@pytest.fixture(autouse=True)
def soon_over(monkeypatch):
    monkeypatch.setattr(embedder, "schedule", lambda: SHORT)


def prepare(*smiles):
    return [prepare_constraints(k, None, s, SETTINGS) for k, s in enumerate(smiles)]


def test_conformers_are_the_molecules_and_open_stereo_is_chosen_once():
    molecules = prepare("C[C@H](N)O", "CC(N)O", "not a molecule", "[Cl-]")
    done, left = embed_prepared(molecules, "cpu")
    assert left == {}
    for molecule in done[:2]:
        assert molecule.positions.shape == (2, 11, 3)
        assert "@" in molecule.smiles
        assert molecule.message is None or "chose one isomer" in molecule.message
        for x in molecule.positions:
            topology = molecule.bonds, molecule.chirality, molecule.double_bonds
            assert rearranged(x, molecule.numbers, *topology) is None
    assert done[2].status == MoleculeStatus.REJECTED
    assert np.array_equal(done[3].positions, np.zeros((1, 1, 3)))


def test_molecules_without_a_geometry_are_left_with_the_reason(monkeypatch):
    real = embedder.causes

    def never(x, packed, molecule):
        return real(x, packed, molecule) * 0 + int(Cause.TETRAHEDRAL)

    monkeypatch.setattr(embedder, "causes", never)
    monkeypatch.setattr(embedder, "ATTEMPTS", 1)
    done, left = embed_prepared(prepare("CO"), "cpu")
    assert left == {0: Cause.TETRAHEDRAL.words}
    assert done[0].positions.size == 0


def test_stereo_that_the_caller_cannot_confirm_is_left():
    asked = []

    def choose(pairs):
        asked.extend(pairs)
        return [None] * len(pairs)

    _, left = embed_prepared(prepare("CCS(C)=O", "CO"), "cpu", choose=choose)
    assert left == {0: "given stereo was not kept"}
    assert [molecule.record for molecule, _ in asked] == [0]


@pytest.mark.parametrize("fault", ["a bound that is no number", "bounds that contradict", "apart"])
def test_impossible_bounds_are_left_with_that_reason_and_cost_no_other_molecule(fault):
    bad, good = prepare("CO", "CF")
    bounds = bad.constraints.bounds.copy()
    if fault == "apart":
        bounds[0, 1:] = 1000.0
    else:  # an upper bound, above the diagonal
        bounds[0, 2] = np.nan if "number" in fault else 0.5
    bad.constraints = replace(bad.constraints, bounds=bounds)
    done, left = embed_prepared([bad, good], "cpu")
    assert left == {0: Cause.CONTRADICTION.words}
    assert done[0].positions.size == 0
    assert done[1].positions.shape == (2, 5, 3)


def test_no_free_memory_is_a_reason_and_not_the_end(monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(embedder.plain, "minimise", full)
    _, left = embed_prepared(prepare("CO", "[Cl-]", "CF"), "cpu")
    assert left == {0: Cause.OUT_OF_MEMORY.words, 2: Cause.OUT_OF_MEMORY.words}


def test_250_atoms_and_100_conformers_come_back_with_geometries_or_a_reason(monkeypatch):
    steps = schedule((Stage(2, 0.1, 0.01), Stage(2, 0.1, 0.01, near=20.0)))
    monkeypatch.setattr(embedder, "schedule", lambda: steps)
    monkeypatch.setattr(embedder, "ATTEMPTS", 1)
    chain = prepare_constraints(0, None, "C" * 82 + "O", ChemistrySettings(n_conformers=1))
    assert chain.n_atoms == 249
    many = prepare_constraints(1, None, "[H][H]", ChemistrySettings(n_conformers=100))
    for molecule, n in ((chain, 1), (many, 100)):
        [done], left = embed_prepared([molecule], "cpu")
        embedded = len(done.positions)
        assert embedded == n or "bonds or angles are out of bounds" in (done.message or left[0])
