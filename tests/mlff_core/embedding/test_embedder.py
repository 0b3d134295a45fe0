"""Molecules in, geometries of those molecules out: judged by RDKit and by their topology."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from rdkit import Chem

from mlff_core.embedding import Cause, embed_molecules, plain
from mlff_core.embedding.packing import pack
from tests.mlff_core.embedding.molecules import SHORT, constraints, molecule, numbers

#: Specified stereo of every kind, a ring, a charge, a hypervalent centre and a linear group.
STEREO = ["C[C@H](N)O", "C[C@@H](N)O", "C/C=C/F", "C/C=C\\F", "O=S(=O)(C)F", "CC#N", "C1CC1[O-]"]


def embed(smiles, n=1, seed=3, **options):
    molecules = [constraints(s) for s in smiles]
    z = [numbers(s) for s in smiles]
    return embed_molecules(molecules, n, [seed] * len(z), numbers=z, steps=SHORT, **options)


@pytest.fixture(scope="module")
def embedded():
    return embed(STEREO)


def test_geometries_have_the_stereo_and_the_bonds_that_were_asked_for(embedded):
    for smiles, positions, cause in zip(STEREO, embedded.positions, embedded.cause, strict=True):
        assert cause.tolist() == [Cause.NONE]
        mol = molecule(smiles)
        conformer = Chem.Conformer(mol.GetNumAtoms())
        conformer.SetPositions(positions[0].astype(np.float64))
        mol.AddConformer(conformer)
        Chem.AssignStereochemistryFrom3D(mol, replaceExistingTags=True)
        assert Chem.CanonSmiles(Chem.MolToSmiles(Chem.RemoveHs(mol))) == Chem.CanonSmiles(smiles)
        for bond in mol.GetBonds():
            i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
            assert 0.9 < np.linalg.norm(positions[0][i] - positions[0][j]) < 1.9


def test_bonds_to_hydrogen_are_as_long_as_the_model_has_them(embedded):
    (positions,) = embedded.positions[STEREO.index("CC#N")]
    lengths = [np.linalg.norm(positions[0] - positions[k]) for k in (3, 4, 5)]
    # Methyl C-H of acetonitrile: 1.09 Å in experiment and in ωB97M; RDKit's bounds say 1.11.
    assert np.allclose(lengths, 1.09, rtol=0, atol=0.008)


def test_a_conformer_depends_on_its_molecule_seed_and_number_alone(embedded):
    more = embed([STEREO[0], "CC(C)(C)O"], n=3)
    assert np.array_equal(more.positions[0][0], embedded.positions[0][0])
    assert not np.allclose(more.positions[0][0], more.positions[0][1], atol=1e-2)
    other = embed([STEREO[0]], seed=4)
    assert not np.allclose(other.positions[0][0], embedded.positions[0][0], atol=1e-2)


def test_what_cannot_be_embedded_is_told_why_and_leaves_the_others_alone(embedded):
    good = constraints(STEREO[0])
    bounds = {name: good.bounds.copy() for name in ("nan", "contradictory", "apart")}
    bounds["nan"][1, 2] = np.nan
    bounds["contradictory"][0, 2] = 0.5  # an upper bound below the lower one
    bounds["apart"][0, 1:] = 1000.0
    bad = [replace(good, bounds=b) for b in bounds.values()]
    large = replace(good, bounds=np.zeros((257, 257), np.float32))
    empty = replace(good, bounds=np.zeros((0, 0), np.float32))
    found = embed_molecules(
        [good, *bad, large, empty], 2, [3] * 6, numbers=None, steps=SHORT, attempts=1
    )
    expected = [Cause.CONTRADICTION] * 3 + [Cause.TOO_LARGE, Cause.CONTRADICTION]
    assert [c.tolist() for c in found.cause[1:]] == [[c, c] for c in expected]
    assert found.cause[0].tolist() == [0, 0]
    assert found.counts == {Cause.CONTRADICTION: 8, Cause.TOO_LARGE: 2}


def test_one_atom_stands_at_the_origin_and_two_at_their_distance():
    found = embed(["[Cl-]", "[H][H]"])
    assert found.positions[0].tolist() == [[[0.0, 0.0, 0.0]]]
    a, b = found.positions[1][0]
    assert abs(np.linalg.norm(a - b) - 0.7) < 0.1
    assert not found.cause[0].any()
    assert not found.cause[1].any()


def test_what_fails_is_tried_again_from_other_coordinates():
    starts = []

    def never(x, packed, molecule, steps):
        starts.append(x)
        return torch.zeros_like(x)

    found = embed(["CO"], n=2, attempts=3, minimise=never)
    assert found.attempts[0].tolist() == [3, 3]
    assert found.cause[0].tolist() == [Cause.NEAR_DISTANCES] * 2
    assert found.counts == {Cause.NEAR_DISTANCES: 6}
    tried = torch.cat(starts)  # two conformers, three times
    assert len(torch.unique(tried.flatten(1), dim=0)) == 6


def test_out_of_memory_costs_the_molecule_that_does_not_fit_alone():
    def crowded(x, packed, molecule, steps):
        if len(x) > 1:
            raise torch.OutOfMemoryError
        return plain.minimise(x, packed, molecule, steps)

    smiles = ["CO", "O", "CF"]
    found = embed_molecules(
        [constraints(s) for s in smiles], [1, 2, 1], [3] * 3, steps=SHORT, minimise=crowded
    )
    assert [c.tolist() for c in found.cause] == [[0], [Cause.OUT_OF_MEMORY] * 2, [0]]


def test_many_conformers_of_one_molecule_differ_by_their_number():
    (positions,) = embed(["OO"], n=100).positions
    assert positions.shape == (100, 4, 3)
    lengths = np.linalg.norm(positions[:, 2] - positions[:, 3], axis=1)  # between the hydrogens
    assert len(np.unique(lengths.round(3))) > 20


@pytest.mark.parametrize(
    ("n", "seeds", "message"),
    [([1], [1, 2], "expected 2"), (1, [1], "expected 2"), (-1, [1, 2], "at least 0, found -1")],
)
def test_wrong_arguments_are_refused_by_name(n, seeds, message):
    with pytest.raises(ValueError, match=message):
        embed_molecules([constraints("O")] * 2, n, seeds)


@pytest.mark.parametrize(("smiles", "raised"), [("S1SSSSSSSS1", 0.5), ("S1SSSSSSS1", 0.0)])
def test_only_macrocycles_begin_wider_than_their_bounds(smiles, raised):
    own = constraints(smiles)
    packed, one = pack([own], "cpu"), torch.zeros(1, dtype=torch.int64)
    low, high = own.bounds[4, 0], own.bounds[0, 4]  # opposite atoms
    wall = low + raised * (high - low)
    for distance, inside in ((wall - 0.05, False), (wall + 0.05, True)):
        x = torch.zeros(1, 4, packed.size)
        x[0, 0, 4] = float(distance)
        errors = plain.distance_errors(x, packed, one, stretch=1.0)
        assert bool(errors[0, 0, 4] == 0) is inside
        assert plain.distance_errors(x, packed, one)[0, 0, 4] == 0 or not (inside or raised)
