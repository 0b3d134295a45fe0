"""Conformers for other programs: SD files, extended XYZ, ASE databases."""

import gzip
import io
import tempfile
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, Literal

import polars as pl

from mlff_core.errors import OutputError
from mlff_core.library.kept import KeptColumns
from mlff_core.schema import ConformerRow
from mlff_core.store import whole_file
from mlff_core.tables.reader import Tables

_Words = dict[str, str]

_BEST: Final = pl.col("conformer") == pl.col("best_conformer")


def export(
    tables: Tables,
    path: Path,
    *,
    which: Literal["best", "all"] = "best",
    where: pl.Expr | None = None,
    keep: Sequence[str] = (),
) -> int:
    """Write conformers into one file, whole or not at all; returns how many.

    Args:
        tables: What `read` gave.
        path: Its ending says the format: .sdf or .sdf.gz (bonds, charges, all columns as
            properties), .xyz or .extxyz, also .gz (energies, forces, charge), .db (ASE's database).
        which: The best conformer of each molecule, or all that are usable.
        where: Which of these; see `Tables.mols`.
        keep: Columns of the library, or properties of its SD file, that come along; `library_`
            stands before the name of one that the tables have, too.

    Raises:
        LibraryError: The library cannot be read any more, is another, or has no such column.
        OutputError: The format is not known, or there is no manifest that names the library.
        ValueError: The order of a molecule's atoms cannot be told; only of schema version 1.
    """
    known = [write for ending, write in _FORMATS.items() if path.name.lower().endswith(ending)]
    if not known:
        raise OutputError(f"{path}: expected a name that ends in {', '.join(_FORMATS)}")
    if which == "best":
        where = _BEST if where is None else where & _BEST
    return known[0](tables, path, where, _kept(tables, keep))


def _kept(tables: Tables, names: Sequence[str]) -> KeptColumns | None:
    if not names:
        return None
    manifest = tables.manifest
    if manifest is None:
        raise OutputError(f"{tables.store.location}: no manifest.json says which library this was")
    library = manifest.library
    files = list(library.get("files", {}).values()) or [library["location"]]
    return KeptColumns(files, library.get("smiles_column"), names)


def _beside(keep: KeptColumns | None, record: int, smiles: str, own: Container[str]) -> _Words:
    """Values of the library's own columns, by the names that they get."""
    if keep is None:
        return {}
    values = keep.of(record, smiles)
    return {f"library_{k}" if k in own else k: value for k, value in values.items()}


def _line(text: str) -> str:
    """Text of others as a line that ends no entry of a file, neither by a break nor by `$$$$`."""
    line = " ".join(text.splitlines())
    return f" {line}" if line.startswith("$$$$") else line


def _heading(name: str) -> str:
    """A column's name between the brackets of an SD file."""
    return _line(name).translate({ord("<"): "(", ord(">"): ")"})


def _write_sdf(tables: Tables, path: Path, where: pl.Expr | None, keep: KeptColumns | None) -> int:
    from rdkit import Chem

    n_written = 0
    with _text(path) as stream, Chem.SDWriter(stream) as writer:
        for mol in tables.mols(where):
            of_molecule = mol.GetPropsAsDict(autoConvertStrings=False)
            own = {*of_molecule, *ConformerRow.__dataclass_fields__}
            record, smiles = of_molecule["record"], of_molecule["input_smiles"]
            for name, value in of_molecule.items():
                if isinstance(value, str):
                    mol.SetProp(name, _line(value))
            mol.SetProp("_Name", _line(mol.GetProp("_Name")))
            for name, value in _beside(keep, record, smiles, own).items():
                mol.SetProp(_heading(name), _line(value))
            for conformer in mol.GetConformers():
                one = Chem.Mol(mol, confId=conformer.GetId())
                for name, value in conformer.GetPropsAsDict(autoConvertStrings=False).items():
                    # A molecule is ok or not, its conformers end in one way or another.
                    key = f"conformer_{name}" if name in of_molecule and name == "status" else name
                    one.SetProp(key, _line(str(value)))
                writer.write(one)
                n_written += 1
    return n_written


def _write_xyz(tables: Tables, path: Path, where: pl.Expr | None, keep: KeptColumns | None) -> int:
    from ase.io import write

    n_written = 0
    with _text(path) as stream:
        for atoms in tables.atoms(where):
            atoms.info |= _of_atoms(keep, atoms)
            for name, value in atoms.info.items():
                if isinstance(value, str):  # a backslash escapes there, and ASE does not escape it
                    atoms.info[name] = _line(value).replace("\\", "\\\\")
            write(stream, atoms, format="extxyz")
            n_written += 1
    return n_written


def _of_atoms(keep: KeptColumns | None, atoms: Any) -> _Words:
    own = {*atoms.info, "energy", "forces"}
    # As it was written, it may hold what an extended XYZ cannot.
    return _beside(keep, atoms.info["record"], atoms.info.pop("input_smiles"), own)


def _write_database(
    tables: Tables, path: Path, where: pl.Expr | None, keep: KeptColumns | None
) -> int:
    from ase.db import connect

    n_written = 0
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "ase.db"
        with connect(file) as database:
            for atoms in tables.atoms(where):
                atoms.info |= _of_atoms(keep, atoms)
                # Strings that look like numbers may not be searched for in ASE's database.
                words: dict[str, Any] = {k: v for k, v in atoms.info.items() if isinstance(v, str)}
                numbers = {k: v for k, v in atoms.info.items() if k not in words}
                # ASE's own `charge` is the sum of initial charges.
                numbers["total_charge"] = numbers.pop("charge")
                database.write(atoms, key_value_pairs=numbers, data=words)
                n_written += 1
        with whole_file(path) as target, open(file, "rb") as source:
            while block := source.read(2**20):
                target.write(block)
    return n_written


_FORMATS: Final[dict[str, Callable[[Tables, Path, pl.Expr | None, KeptColumns | None], int]]] = {
    ".sdf": _write_sdf,
    ".sdf.gz": _write_sdf,
    ".xyz": _write_xyz,
    ".xyz.gz": _write_xyz,
    ".extxyz": _write_xyz,
    ".extxyz.gz": _write_xyz,
    ".db": _write_database,
}


@contextmanager
def _text(path: Path) -> Iterator[IO[str]]:
    """Open a text file that appears when it is whole, packed if its name says so."""
    with whole_file(path) as stream:
        packed: Any = stream
        if path.suffix.lower() == ".gz":
            packed = gzip.GzipFile(fileobj=stream, mode="wb", mtime=0)
        text = io.TextIOWrapper(packed, encoding="utf-8", newline="\n")
        yield text
        text.flush()
        text.detach()
        if packed is not stream:
            packed.close()
