"""Energies of protonation states that no table has: which are drawn, compared and told."""

import argparse
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from rdkit import Chem

from benchmarks import model_card, model_pages
from benchmarks.accuracy import other_bonds, protomers
from mlff_core.models.potential import load_potential
from mlff_core.testing import SpringTeacher


def test_charged_groups_are_counted_by_sign_but_for_those_that_make_up_for_each_other():
    assert protomers.charged_groups("[NH3+]CC([NH3+])C(=O)[O-]") == (2, 1)
    assert protomers.charged_groups("COP(=O)([O-])[O-]") == (0, 2)
    assert protomers.charged_groups("C[N+](=O)[O-]") == (0, 0)
    assert protomers.charged_groups("[NH3+]Cc1ccc([N+](=O)[O-])cc1") == (1, 0)


def test_other_states_are_none_of_the_molecules_own():
    student = argparse.Namespace(config=argparse.Namespace(min_charge=-1, max_charge=3))
    own = ["NCC(=O)O", "CCO", "[NH3+]CCC(=O)[O-]", "CNC"]
    seen = set()
    for seed in range(20):
        arguments = argparse.Namespace(seed=seed)
        states = protomers.other_states(own, arguments, student, 2)
        assert len(states) <= 2
        seen |= set(states)
    assert not seen & {Chem.CanonSmiles(text) for text in own}
    assert seen <= {
        "NCC(=O)[O-]", "[NH3+]CC(=O)O", "[NH3+]CC(=O)[O-]", "C[NH2+]C",
        "NCCC(=O)O", "NCCC(=O)[O-]", "[NH3+]CCC(=O)O",
    }  # fmt: skip
    assert len(seen) > 4
    arguments = argparse.Namespace(seed=1)
    assert protomers.other_states(own, arguments, student, 0) == []
    lysine = "NCCCC[C@H](N)C(=O)O"
    found = protomers.other_states([*own, lysine], arguments, student, 9, both_signs=True)
    assert found == ["[NH3+]CCCC[C@H]([NH3+])C(=O)[O-]"]


class Still(SpringTeacher):
    """A teacher that moves nothing."""

    def member(self, index, numbers, positions, charge):
        label = super().member(index, numbers, positions, charge)
        return replace(label, forces=torch.zeros_like(label.forces))


# Springs draw together what is not bonded.
@pytest.mark.parametrize(("springs", "changes_bonds"), [(SpringTeacher, True), (Still, False)])
def test_protonation_states_that_pass_a_proton_on_are_listed_and_not_compared(
    springs, changes_bonds, tmp_path, monkeypatch
):
    held_out = tmp_path / "held_out.parquet"
    pq.write_table(pa.table({"smiles": ["NCC(=O)O", "CNC"], "charge": [0, 0]}), held_out)
    states = ["[NH3+]CC(=O)[O-]", "NCC(=O)[O-]", "C[NH2+]C"]
    salt = "C[N+](C)(C)CC(C[N+](C)(C)C)C(=O)[O-]"

    def other_states(*_, both_signs=False):
        return [salt] if both_signs else states

    monkeypatch.setattr(protomers, "other_states", other_states)
    monkeypatch.setattr(protomers, "Teacher", lambda _, device: springs(device))
    arguments = argparse.Namespace(
        teacher=None, held_out=held_out, seed=7, at_once=2, molecules=3, both_signs=1
    )
    student = load_potential("default", device="cpu")
    found = protomers.measure(arguments, student)
    assert found["n_embedded"] == found["n_converged"] == 4
    # In vacuum glycine is no zwitterion.
    assert found["rearranged"] == [{"smiles": states[0], "teacher_too": changes_bonds}]
    assert {name: group["n"] for name, group in found["groups"].items()} == {
        "all": 2, "groups of one sign": 2, "groups of both signs, more": 1,
    }  # fmt: skip
    assert {w["smiles"] for w in found["worst"]} == {*states[1:], salt}
    zwitterions = tmp_path / "zwitterions.parquet"
    pq.write_table(pa.table({"smiles": states, "charge": [0, -1, 1]}), zwitterions)
    monkeypatch.setattr(other_bonds, "Teacher", lambda _, device: springs(device))
    options = {"held_out": zwitterions, "molecules": 3, "conformers": 1}
    bonds = other_bonds.measure(argparse.Namespace(teacher=None, seed=7, **options), student)
    assert bonds["rearranged"] == found["rearranged"]
    text = "\n".join(model_pages.other_bonds(bonds, "a CPU"))
    assert ("0 where the teacher does not." if changes_bonds else f"not: `{states[0]}`.") in text
    text = "\n".join(model_card.protomers({**found, "device": "CPU"}))
    assert "1 came to other bonds than those of the SMILES (from the same start the " in text
    assert f"the teacher brings {changes_bonds:d} of them to others, too)" in text
    assert "1 of them were drawn besides" in text


def test_sizes_of_errors():
    found = protomers.sizes_of_errors(np.array([-1.0, 2.0, -8.0, 3.0, 5.0]))
    assert (found["n"], found["median"], found["largest"], found["n_far_off"]) == (5, 3.0, 8.0, 1)
