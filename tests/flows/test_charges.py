"""`--charges`: the model's partial charges where each relaxation ended, from tables to files."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from ase import Atoms
from rdkit import Chem
from rdkit.Chem import AllChem

from flows.call import ScreenCall
from flows.cli import main
from flows.engines import LocalEngine
from flows.run import run_screen
from flows.watch import Watcher
from mlff_core.additions import charge_shard
from mlff_core.arrow import read_arrow, rows_of, table_of, write_arrow
from mlff_core.calculator import PaiNNCalculator
from mlff_core.chem.molecule import ChemistrySettings
from mlff_core.chem.pool import EmbeddingPool
from mlff_core.errors import ModelFileError
from mlff_core.library import Record
from mlff_core.models.checkpoint import save_checkpoint
from mlff_core.models.painn import PaiNNConfig
from mlff_core.models.potential import load_potential
from mlff_core.moves.settings import RelaxSettings
from mlff_core.schema import ConformerRow
from mlff_core.screening import screen_mols
from mlff_core.shard import ShardFiles, embed_shard, judged_rows, relax_shard
from mlff_core.tables import read
from mlff_core.tables.export import export
from mlff_core.testing import random_model

LIBRARY = "CC(=O)[O-] acetate\nnonsense b\nC[NH3+] c\nOCCO d\n"
CHARGE = {0: -1, 2: 1, 3: 0}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights that have charges, fed back and with their Coulomb energy."""
    shape = PaiNNConfig(n_features=16, charges_after=1, charge_feedback=True, coulomb=True)
    file = tmp_path_factory.mktemp("charges") / "charged.safetensors"
    save_checkpoint(random_model(3, shape), file, {})
    return file


def screen(library: Path, out: Path, model: Path, **more: object) -> dict[str, pl.DataFrame]:
    options = dict(shard_size=2, max_steps=3, workers=1, device="cpu", conformers=2) | more
    call = ScreenCall(library=str(library), out=str(out), model=str(model), **options)
    run_screen(call, LocalEngine(), Watcher())
    return {t: pl.read_parquet(out / t) for t in ("molecules", "conformers")}


def test_charges_are_a_column_that_adds_up_and_goes_into_files(tmp_path: Path, model: Path) -> None:
    library = tmp_path / "library.smi"
    library.write_text(LIBRARY)
    plain = screen(library, tmp_path / "plain", model)
    asked = screen(library, tmp_path / "out", model, charges=True)
    assert asked["molecules"].equals(plain["molecules"])
    without = [name for name in plain["conformers"].columns if name != "charges_e"]
    assert asked["conformers"].select(without).equals(plain["conformers"].select(without))
    assert plain["conformers"]["charges_e"].list.len().max() == 0
    assert asked["conformers"].height >= 4
    calculator = PaiNNCalculator(load_potential(model, device="cpu"))
    for row in asked["conformers"].iter_rows(named=True):
        total = CHARGE[row["record"]]
        assert len(row["charges_e"]) == len(row["atomic_numbers"])
        assert sum(row["charges_e"]) == pytest.approx(total, abs=1e-5)
        positions = np.array(row["positions_angstrom"]).reshape(-1, 3)
        atoms = Atoms(row["atomic_numbers"], positions, info={"charge": total})
        atoms.calc = calculator
        assert atoms.get_charges() == pytest.approx(row["charges_e"], abs=1e-5)
        assert np.ptp(row["charges_e"]) > 0.01

    tables = read(tmp_path / "out")
    export(tables, tmp_path / "all.sdf", which="all")
    for mol in Chem.SDMolSupplier(str(tmp_path / "all.sdf"), removeHs=False):
        written = [float(q) for q in mol.GetProp("charges_e").split()]
        assert len(written) == mol.GetNumAtoms()
        assert sum(written) == pytest.approx(Chem.GetFormalCharge(mol), abs=1e-3)
    assert not any("charges" in atoms.calc.results for atoms in read(tmp_path / "plain").atoms())
    for atoms, row in zip(tables.atoms(), asked["conformers"].iter_rows(named=True), strict=True):
        assert atoms.get_charges() == pytest.approx(row["charges_e"])


def test_molecules_in_memory_get_them_too(model: Path) -> None:
    options = dict(model=model, device="cpu", max_steps=2, workers=0)
    [acetate, broken] = screen_mols(["CC(=O)[O-]", "nonsense"], charges=True, **options)
    assert acetate.rows[0].charges_e.sum() == pytest.approx(-1.0, abs=1e-5)
    assert acetate.atoms()[0].get_charges() == pytest.approx(acetate.rows[0].charges_e)
    assert broken.rows == ()
    [conformer] = acetate.mol().GetConformers()
    written = [float(q) for q in conformer.GetProp("charges_e").split()]
    assert written == pytest.approx(acetate.rows[0].charges_e, abs=1e-6)
    [plain] = screen_mols(["CC(=O)[O-]"], **options)
    assert len(plain.rows[0].charges_e) == 0
    assert plain.rows[0].energy_ev == acetate.rows[0].energy_ev
    assert not any(c.HasProp("charges_e") for c in plain.mol().GetConformers())


def test_a_molecule_that_was_embedded_and_is_not_ok_keeps_its_reason(
    tmp_path: Path, model: Path
) -> None:
    library = tmp_path / "library.sdf"
    with Chem.SDWriter(str(library)) as writer:
        for frozen in ("1 2", "99"):
            mol = Chem.AddHs(Chem.MolFromSmiles("CCO"))
            AllChem.EmbedMolecule(mol, randomSeed=1)
            mol.SetProp("FROZEN_ATOMS", frozen)
            writer.write(mol)
    asked = dict(charges=True, thermo=True, from_3d="frozen", conformers=1, max_steps=300)
    found = screen(library, tmp_path / "out", model, **asked)
    assert found["molecules"]["reason"].to_list()[1] == "invalid_frozen_atoms"
    assert found["conformers"]["record"].to_list() == [0]
    assert found["conformers"]["charges_e"].list.len().to_list() == [9]


def test_a_molecule_that_did_not_fit_into_memory_takes_no_other_along(
    tmp_path: Path, model: Path
) -> None:
    files = ShardFiles.of(tmp_path, 0)
    settings = ChemistrySettings(n_conformers=3)
    records = [Record(k, None, smiles, None) for k, smiles in enumerate(["CCCCO", "CCO"])]
    with EmbeddingPool(settings, 1) as pool:
        embed_shard(records, files.embedded, pool)
    potential = load_potential(model, device="cpu")
    relax_shard(files.embedded, files.relaxed, potential, RelaxSettings(max_steps=1))
    rows = rows_of(read_arrow(files.relaxed), ConformerRow)
    rows[0].status = None
    write_arrow(table_of(rows, ConformerRow), files.relaxed)
    charge_shard(files, potential)
    molecules, conformers = judged_rows(files)
    assert [m.reason for m in molecules] == ["out_of_memory", None]
    assert {c.record for c in conformers} == {1}
    assert all(len(c.charges_e) == 9 for c in conformers)


def test_a_model_without_charges_is_refused_before_the_run(
    tmp_path: Path, small_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    library = tmp_path / "library.smi"
    library.write_text(LIBRARY)
    with pytest.raises(SystemExit) as stop:
        main(["run", str(library), "--out", str(tmp_path / "out"), "--model", str(small_model),
              "--charges"])  # fmt: skip
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert "charges: random has no partial charges" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()
    with pytest.raises(ModelFileError, match="no partial charges"):
        screen_mols(["C"], model=small_model, device="cpu", charges=True)
