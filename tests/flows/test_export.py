"""The command `export`, on a small table."""

from pathlib import Path

import pytest
from rdkit import Chem

from flows.cli import main
from mlff_core.chem.molecule import ChemistrySettings
from mlff_core.chem.prepare import prepare
from mlff_core.tables.testing import conformer, write_tables


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Alanine and methylammonium with two conformers each, the second one the better."""
    molecules = [
        prepare(k, s, s, ChemistrySettings()) for k, s in enumerate(("C[C@H](N)C(=O)O", "C[NH3+]"))
    ]
    rows = []
    for m in molecules:
        m.n_conformers, m.n_converged, m.best_conformer, m.min_energy_ev = 2, 2, 1, -1.0
        x = m.conformers()[0]
        rows += [
            conformer(m.record, c, atomic_numbers=m.numbers, positions_angstrom=x,
                      forces_ev_per_angstrom=x, energy_ev=-float(c))
            for c in range(2)
        ]  # fmt: skip
    write_tables(tmp_path / "run", 0, molecules, rows)
    return tmp_path / "run"


def test_the_best_conformers_become_an_sd_file(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "best.sdf"
    assert main(["export", str(run), "--sdf", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}: 2 conformers\n"
    found = [Chem.MolToSmiles(mol) for mol in Chem.SDMolSupplier(str(path))]
    assert found == ["C[C@H](N)C(=O)O", "C[NH3+]"]


@pytest.mark.parametrize(
    ("options", "n_expected"),
    [
        (["--all"], "4 conformers"),
        (["--where", "charge = 1"], "1 conformer"),
        (["--all", "--where", "charge = 0 AND energy_ev > -0.5"], "1 conformer"),
    ],
)
def test_conditions_name_columns_of_both_tables(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    options: list[str], n_expected: str,
) -> None:  # fmt: skip
    assert main(["export", str(run), "--xyz", str(tmp_path / "x.extxyz"), *options]) == 0
    assert capsys.readouterr().out.endswith(f": {n_expected}\n")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--sdf", "x.mol2"], "x.mol2: --sdf takes a name in .sdf, .sdf.gz"),
        ([], "one of the arguments --sdf --xyz --db is required"),
        (["--db", "x.db", "--where", "colour = 1"], "--where colour = 1: no column 'colour'"),
        (["--db", "x.db", "--where", "qde > 0.5"], "no column 'qde' (near it: qed"),
        (["--db", "x.db", "--where", "qed >"], "--where qed >: "),
        (["--db", "no/folder/x.db"], "no/folder"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], options: list[str], expected: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["export", str(run), *options])
    assert stop.value.code == 2
    told = capsys.readouterr().err
    assert expected in told
    assert told.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"run"}
