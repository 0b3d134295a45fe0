"""Which conformer has its vibrations computed, and what is said of those that have none."""

from dataclasses import replace

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdMolTransforms

from mlff_core.arrow import read_arrow, rows_of, table_of, write_arrow
from mlff_core.chem.molecule import ChemistrySettings, PreparedMolecule
from mlff_core.chem.prepare import prepare
from mlff_core.models.force_field import Domain, Outputs
from mlff_core.models.potential import load_potential
from mlff_core.moves.relax import relax_conformers
from mlff_core.moves.settings import RelaxSettings
from mlff_core.outcome import final_rows
from mlff_core.properties.thermo import ThermoSettings
from mlff_core.properties.thermo_columns import add_thermochemistry, best_minima
from mlff_core.schema import ConformerRow
from mlff_core.status import ConformerStatus, Flag
from mlff_core.units import EV_KCAL_MOL

TIGHT = RelaxSettings(fmax=0.01, max_steps=200)


def row(molecule: PreparedMolecule, k: int, energy: float, **more: object) -> ConformerRow:
    x = molecule.conformers()[0]
    about: dict = {
        "status": ConformerStatus.CONVERGED, "energy_ev": energy, "positions_angstrom": x,
        "forces_ev_per_angstrom": np.zeros_like(x), "atomic_numbers": molecule.numbers,
        "record": molecule.record, "conformer": k, "max_force_ev_per_angstrom": 0.005,
    } | more  # fmt: skip
    return ConformerRow(**about)


def made(*smiles: str) -> list[PreparedMolecule]:
    return [prepare(k, None, text, ChemistrySettings()) for k, text in enumerate(smiles)]


def test_it_is_the_conformer_that_the_table_calls_the_best() -> None:
    molecules = made("CCO", "nonsense", "CO", "CC", "C", "N", "CF")
    ethanol, _, methanol, ethane, methane, ammonia, fluoride = molecules
    for one in (ethanol, ammonia):
        one.positions = np.repeat(one.conformers(), 4, axis=0)
    broken = ethanol.conformers()[0].copy()
    broken[0] += 5.0
    fluoride.frozen = np.array([0], np.int16)
    rows = [
        row(ethanol, 0, -1.0),
        row(ethanol, 1, -9.0, positions_angstrom=broken),
        row(ethanol, 2, -8.0, status=ConformerStatus.MAX_STEPS),
        row(ethanol, 3, -2.0),
        row(methanol, 0, -1.0, status=ConformerStatus.MAX_STEPS),
        row(ethane, 0, -1.0, protons_held=1),
        row(methane, 0, -3.0, status=None),
        row(ammonia, 0, -3.0),
        row(ammonia, 1, -3.0),
        row(fluoride, 0, -3.0),
    ]
    found = best_minima(molecules, rows)
    assert [(m.record, c.conformer) for m, c in found] == [(0, 3), (5, 0)]
    said = [m.message or "" for m in molecules]
    assert "no conformer converged" in said[2]
    assert "held by springs" in said[3]
    assert "thermochemistry" not in said[4]
    assert "frozen" in said[6]
    final_rows(molecules, rows)
    assert (ethanol.best_conformer, ammonia.best_conformer) == (3, 0)


class Bowl:
    """Atoms on springs to the places where the first batch has them; `bent` turns one round."""

    name, sha256, domain, cutoff, bytes_per_edge, bare_step = "bowl", "", Domain(), 1e9, 0, None

    def __init__(self, x: np.ndarray, bent: bool) -> None:
        import torch

        self.device, self.dtype, self._torch = torch.device("cpu"), torch.float64, torch
        self._x = torch.from_numpy(x - x.mean(0)).double()
        self._k = torch.full(x.shape, 20.0, dtype=torch.float64)
        if bent:
            self._k[0] = -20.0

    def evaluate(self, batch) -> Outputs:
        # Molecules that have ended are left out of a batch: it may hold empty ones.
        place = self._torch.arange(batch.n_atoms) - batch.ptr[batch.mol_idx]
        forces = -self._k[place] * (batch.positions - self._x[place])
        return Outputs(self._torch.zeros(batch.n_mols).double(), forces)


@pytest.mark.parametrize("bent", [False, True])
def test_a_saddle_point_is_told_and_has_no_thermochemistry(tmp_path, bent: bool) -> None:
    [methanol] = made("CO")
    embedded, relaxed = tmp_path / "embedded.arrow", tmp_path / "relaxed.arrow"
    write_arrow(table_of([methanol], PreparedMolecule), embedded)
    write_arrow(table_of([row(methanol, 0, -5.0)], ConformerRow), relaxed)
    bowl = Bowl(methanol.conformers()[0], bent)
    add_thermochemistry(embedded, relaxed, bowl, ThermoSettings(), TIGHT)
    [found] = rows_of(read_arrow(embedded), PreparedMolecule)
    assert len(found.wavenumbers_per_cm) == 12
    assert (Flag.SADDLE_POINT in found.flags) is bent
    assert (found.gibbs_energy_ev is None) is bent
    assert (found.n_imaginary > 0) is bent
    assert ("imaginary" in (found.message or "")) is bent
    assert not list(tmp_path.glob("*.whole"))


def test_eclipsed_ethane_is_left_for_staggered(tmp_path) -> None:
    mol = Chem.AddHs(Chem.MolFromSmiles("CC"))
    [ethane] = made("CC")
    mol.AddConformer(Chem.Conformer(8))
    mol.GetConformer().SetPositions(ethane.conformers()[0].astype(float))
    rdMolTransforms.SetDihedralDeg(mol.GetConformer(), 2, 0, 1, 5, 0.0)
    potential = load_potential("small", device="cpu")
    start = ethane.numbers, mol.GetConformer().GetPositions(), 0
    # No force turns the methyl group; a model of the Hessian that is soft there would, by rounding.
    [top] = relax_conformers([start], potential, replace(TIGHT, model_hessian=False))
    assert top.status == ConformerStatus.CONVERGED
    embedded, relaxed = tmp_path / "embedded.arrow", tmp_path / "relaxed.arrow"
    write_arrow(table_of([ethane], PreparedMolecule), embedded)
    eclipsed = row(ethane, 0, top.energy, positions_angstrom=top.positions)
    write_arrow(table_of([eclipsed], ConformerRow), relaxed)
    add_thermochemistry(embedded, relaxed, potential, ThermoSettings(), TIGHT)
    [found], [end] = (
        rows_of(read_arrow(embedded), PreparedMolecule), rows_of(read_arrow(relaxed), ConformerRow)
    )  # fmt: skip
    # The barrier of the teacher, which the model learns, is 1.8 kcal/mol; measured, it is 2.9
    # (R. M. Pitzer, Acc. Chem. Res. 1983, 16, 207).
    assert (top.energy - end.energy_ev) * EV_KCAL_MOL == pytest.approx(1.8, abs=0.5)
    assert "was a saddle point with 1 imaginary mode, and was relaxed on" in (found.message or "")
    assert (found.n_imaginary, found.symmetry_number) == (0, 6)
    assert found.gibbs_energy_ev is not None
    assert Flag.SADDLE_POINT not in found.flags
    x = end.positions_angstrom.reshape(-1, 3)
    mol.GetConformer().SetPositions(x.astype(float))
    turned = rdMolTransforms.GetDihedralDeg(mol.GetConformer(), 2, 0, 1, 5) % 120
    assert turned == pytest.approx(60, abs=3)
    assert not list(tmp_path.glob("*.whole"))
