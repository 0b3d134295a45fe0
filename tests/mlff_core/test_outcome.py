"""What comes of relaxed conformers: judged, ranked, weighed, and put in words."""

import copy

import numpy as np
import pytest

from mlff_core.chem.molecule import ChemistrySettings, PreparedMolecule
from mlff_core.chem.prepare import prepare
from mlff_core.outcome import final_rows
from mlff_core.schema import ConformerRow
from mlff_core.status import ConformerStatus, Flag
from mlff_core.tables import conformers_table, molecules_table
from mlff_core.units import EV_KCAL_MOL

RECORDS = [(7, "ethanol", "CCO"), (8, None, "nonsense"), (9, "butane", "CCCC"), (10, "", "[Na+]")]
SETTINGS = ChemistrySettings(n_conformers=8, prune_rmsd_angstrom=0.1)
PREPARED = [prepare(*record, SETTINGS) for record in RECORDS]


@pytest.fixture
def molecules() -> list[PreparedMolecule]:
    """Ethanol with one conformer, a record that is none, butane with several, sodium."""
    molecules = copy.deepcopy(PREPARED)
    molecules[0].positions = molecules[0].positions[:1]
    return molecules


def relaxed(molecules: list[PreparedMolecule], energies: dict[int, list[float]]) -> list:
    """As the relaxation would leave them, had every conformer converged where it was."""
    return [
        ConformerRow(
            record=molecule.record,
            variant=molecule.variant,
            conformer=c,
            status=ConformerStatus.CONVERGED,
            energy_ev=energies[molecule.record][c % len(energies[molecule.record])],
            initial_energy_ev=0.0,
            max_force_ev_per_angstrom=0.01,
            n_steps=12,
            atomic_numbers=molecule.numbers,
            positions_angstrom=x.copy(),
            forces_ev_per_angstrom=np.zeros_like(x),
            bucket="small",
            batch_size=32,
        )
        for molecule in molecules
        for c, x in enumerate(molecule.conformers())
    ]


def test_conformers_are_ranked_within_their_molecule(molecules) -> None:
    conformers = final_rows(molecules, relaxed(molecules, {7: [-100.0], 9: [-200.0, -200.1]}))
    ethanol, nonsense, butane, sodium = molecules
    assert [m.status for m in molecules] == ["ok", "rejected", "ok", "rejected"]
    assert nonsense.n_conformers == sodium.n_conformers == 0
    own = [c for c in conformers if c.record == 9]
    assert len(own) == butane.n_conformers == butane.n_converged >= 2
    assert butane.best_conformer == 1
    assert butane.min_energy_ev == -200.1
    assert own[1].relative_energy_kcal_mol == 0.0
    assert own[0].relative_energy_kcal_mol == pytest.approx(0.1 * EV_KCAL_MOL)
    assert sum(c.boltzmann_weight or 0.0 for c in own) == pytest.approx(1.0)
    assert own[1].boltzmann_weight > 0.9 / sum(c.energy_ev == -200.1 for c in own)
    assert all(c.rmsd_to_initial_angstrom < 1e-3 for c in conformers)
    assert ethanol.min_energy_ev == -100.0


def test_variants_of_a_record_are_ranked_apart(molecules) -> None:
    ethanol, _, butane, _ = molecules
    butane.record, butane.variant, butane.n_variants, ethanol.n_variants = 7, 1, 2, 2
    rows = relaxed([ethanol], {7: [-100.0]}) + relaxed([butane], {7: [-200.0, -200.1]})
    conformers = final_rows([ethanol, butane], rows)
    assert (ethanol.min_energy_ev, butane.min_energy_ev) == (-100.0, -200.1)
    for molecule in (ethanol, butane):
        own = [c for c in conformers if c.variant == molecule.variant]
        assert len(own) == molecule.n_conformers == molecule.n_converged > 0
        assert sum(c.boltzmann_weight or 0.0 for c in own) == pytest.approx(1.0)
        assert all(len(c.atomic_numbers) == molecule.n_atoms for c in own)


def test_tautomers_are_compared_with_what_is_given_of_the_same_atoms(molecules) -> None:
    ethanol, _, butane, _ = molecules
    rows = [copy.deepcopy(ethanol) for _ in range(4)] + [butane]
    kinds = ["as_given", "tautomer", "stereoisomer", "tautomer+stereoisomer", "tautomer+protomer"]
    for k, (row, kind) in enumerate(zip(rows, kinds, strict=True)):
        row.record, row.variant, row.n_variants, row.variant_kind = 7, k, 5, kind
    conformers = []
    for row, energy in zip(rows, (-100.0, -100.2, -100.1, -99.9, -200.0), strict=True):
        conformers += relaxed([row], {7: [energy] * 20})
    final_rows(rows, conformers)
    above = [row.relative_tautomer_energy_kcal_mol for row in rows]
    assert above[:4] == pytest.approx([e * EV_KCAL_MOL for e in (0.1, -0.1, 0.0, 0.2)])
    assert above[4] is None  # of other atoms
    alone = copy.deepcopy(molecules[0])
    final_rows([alone], relaxed([alone], {7: [-100.0] * 20}))
    assert alone.relative_tautomer_energy_kcal_mol is None


def test_a_minimum_that_two_starts_reach_counts_once(molecules) -> None:
    rows = relaxed(molecules, {7: [-100.0], 9: [-200.1, -200.0]})
    own = [row for row in rows if row.record == 9]
    turned = np.float32([[0, 1, 0], [-1, 0, 0], [0, 0, 1]])
    again = copy.deepcopy(own[0])
    again.conformer, again.energy_ev = len(own), -200.1001
    again.positions_angstrom = own[0].positions_angstrom.reshape(-1, 3) @ turned + 1.0
    molecules[2].positions = np.concatenate([molecules[2].positions, molecules[2].positions[:1]])
    conformers = final_rows(molecules, [*rows, again])
    own = [c for c in conformers if c.record == 9]
    assert own[0].duplicate_of == again.conformer  # of the two, the one of lower energy is new
    assert own[-1].duplicate_of is None
    assert own[0].boltzmann_weight is None
    assert own[0].relative_energy_kcal_mol == pytest.approx(0.0001 * EV_KCAL_MOL)
    assert sum(c.boltzmann_weight or 0.0 for c in own) == pytest.approx(1.0)
    assert molecules[2].n_converged == len(own)


def test_a_rearranged_conformer_is_neither_best_nor_weighed(molecules) -> None:
    rows = relaxed(molecules, {7: [-100.0], 9: [-300.0] + 8 * [-200.0]})
    first = next(row for row in rows if row.record == 9)
    first.positions_angstrom[-1] += 5.0  # a hydrogen leaves
    conformers = final_rows(molecules, rows)
    own = [c for c in conformers if c.record == 9]
    assert own[0].status == "rearranged"
    assert own[0].boltzmann_weight is None
    assert own[0].rmsd_to_initial_angstrom > 0.5
    assert molecules[2].min_energy_ev == -200.0
    # The atom's number is its atom map number in mapped_smiles, not its place counted from 0.
    assert "conformer 0: bond C4-H14 broken" in molecules[2].message


def test_molecules_whose_conformers_all_failed_say_how_and_what_to_do(molecules) -> None:
    rows = relaxed(molecules, {7: [-100.0], 9: [-200.0]})
    for row in rows:
        row.status = ConformerStatus.MAX_STEPS if row.record == 9 else ConformerStatus.EXPLODED
    exploded = next(row for row in rows if row.record == 7)
    exploded.positions_angstrom[8] += 5.0  # the hydroxyl's hydrogen
    conformers = final_rows(molecules, rows)
    ethanol, _, butane, _ = molecules
    assert (ethanol.status, ethanol.reason) == ("failed", "all_conformers_failed")
    assert "conformer 0: O3 and H9 flew apart (" in ethanol.message
    n = len(ethanol.conformers())
    assert f"of {n} conformers: {n} exploded; another start may do (--conformers 5)" in (
        ethanol.message
    )
    assert ethanol.min_energy_ev is None
    # Unconverged geometries are usable, but said to be what they are.
    assert (butane.status, butane.n_converged) == ("ok", 0)
    assert "no conformer converged within the steps allowed" in butane.message
    assert "--max-steps" in butane.message
    assert all(c.boltzmann_weight is None for c in conformers)


def test_a_message_names_some_conformers_and_counts_the_others(molecules) -> None:
    ethanol = molecules[0]
    ethanol.positions = np.repeat(ethanol.positions[:1], 14, 0)
    rows = relaxed([ethanol], {7: [-100.0]})
    for row in rows:
        row.positions_angstrom[8] += 5.0
    final_rows([ethanol], rows)
    assert ethanol.message.count("broken") == 10
    assert "; and 4 more conformers alike; of 14 conformers: 14 rearranged; " in ethanol.message


def test_atoms_that_overlap_at_the_start_are_named(molecules) -> None:
    ethanol = molecules[0]
    ethanol.positions = ethanol.positions[:1]
    ethanol.positions[0, 8] = ethanol.positions[0, 1] + [0.3, 0.0, 0.0]
    [row] = relaxed([ethanol], {7: [np.nan]})
    row.status = ConformerStatus.NON_FINITE
    final_rows([ethanol], [row])
    assert "conformer 0: C2 and H9 overlap at the start (0.30 Å)" in ethanol.message


def test_a_molecule_that_explodes_names_the_atom_with_the_largest_force(molecules) -> None:
    ethanol = molecules[0]
    ethanol.positions = ethanol.positions[:1]
    [row] = relaxed([ethanol], {7: [-100.0]})
    row.status = ConformerStatus.EXPLODED
    row.forces_ev_per_angstrom = np.zeros(27, np.float32)
    row.forces_ev_per_angstrom[3:6] = [0.0, -300.0, 400.0]
    ethanol.flags.append(Flag.OUTSIDE_TRAINING)
    final_rows([ethanol], [row])
    assert "conformer 0: a force of 500 eV/Å pulled at C2; " in ethanol.message
    # Another start is no help to what no model knows.
    assert ethanol.message.endswith("the models do not know such molecules, quantum chemistry does")


def test_a_molecule_that_does_not_fit_into_memory_has_no_conformers(molecules) -> None:
    rows = relaxed(molecules, {7: [-100.0], 9: [-200.0]})
    next(row for row in rows if row.record == 7).status = None
    conformers = final_rows(molecules, rows)
    assert (molecules[0].status, molecules[0].reason) == ("failed", "out_of_memory")
    assert molecules[0].n_conformers == 0
    assert {c.record for c in conformers} == {9}
    assert conformers_table(conformers).num_rows == molecules[2].n_conformers
    assert molecules_table(molecules)["status"].to_pylist() == [
        "failed", "rejected", "ok", "rejected"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("smiles", "length", "told"),
    [("OCC(=O)[O-]", 1.22, True), ("OCC(=O)[O-]", 1.05, False), ("OCC(=O)OC", 1.22, False)],
)
def test_a_proton_halfway_to_an_anion_is_told(smiles: str, length: float, told: bool) -> None:
    [acid] = [prepare(0, None, smiles, ChemistrySettings())]
    oxygen, hydrogen = next(
        (o, h)
        for pair in acid.bonds.tolist()
        for o, h in (pair, pair[::-1])
        if acid.numbers[o] == 8 and acid.numbers[h] == 1
    )
    [row] = relaxed([acid], {0: [-1.0]})
    bond = row.positions_angstrom[hydrogen] - row.positions_angstrom[oxygen]
    row.positions_angstrom[hydrogen] += bond * (length / np.linalg.norm(bond) - 1.0)
    final_rows([acid], [row])
    assert acid.status == "ok"
    assert (Flag.PROTON_SHARED in acid.flags) is told
    assert (f"(O{oxygen + 1}-H{hydrogen + 1} 1.22 Å)" in (acid.message or "")) is told
