"""Molecules in, conformers with energies out, in one call and in memory.

A screen of a library is the same, shard by shard and into tables: its steps are called here.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from rdkit import Chem

from mlff_core.additions import rescore_shard, solvate_shard
from mlff_core.chem.here import pool_of
from mlff_core.chem.mapped import molecule_of, set_charges
from mlff_core.chem.molecule import ChemistrySettings, From3D
from mlff_core.chem.variant import Expansion, Stereo
from mlff_core.cores import usable_cores
from mlff_core.elements import KNOWN_ELEMENTS
from mlff_core.errors import ModelFileError
from mlff_core.library import Record
from mlff_core.library.molblock import smiles_of
from mlff_core.models.potential import Backend, Device, Potential, Precision, load_potential
from mlff_core.models.reference import pre_model
from mlff_core.moves.settings import THERMO_FMAX, RelaxSettings
from mlff_core.properties.charges import charges_of, no_charges
from mlff_core.properties.thermo import ThermoSettings
from mlff_core.properties.water import require_tblite
from mlff_core.schema import ConformerRow, MoleculeRow
from mlff_core.shard import ShardFiles, embed_shard, judged_rows, relax_shard
from mlff_core.status import ConformerStatus, MoleculeStatus

#: Conformers that are worth a process more: to start one costs a second.
_CONFORMERS_A_PROCESS: Final = 20

#: Seconds that the solvation of one conformer may take.
_SOLVENT_SECONDS: Final = 120.0
#: Conformers whose geometry means something.
_USABLE: Final = (ConformerStatus.CONVERGED, ConformerStatus.MAX_STEPS)

#: Told of a stage ("embed", "relax", "solvate", "rescore") that so many of so many molecules are
#: through it.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, repr=False)
class ScreenedMolecule:
    """What became of one molecule.

    Attributes:
        row: What the table `molecules` says of it: status, reason, message, flags, descriptors.
        rows: What the table `conformers` says of each of its conformers, by their number; also of
            those that are not usable.
    """

    row: MoleculeRow
    rows: tuple[ConformerRow, ...]

    def __repr__(self) -> str:
        row = self.row
        what = row.smiles or row.input_smiles or row.input_id or f"molecule {row.record}"
        if not self.ok:
            return f"<{what}: {row.status}, {row.reason}>"
        n = len(self.usable)
        conformers = "1 conformer" if n == 1 else f"{n} conformers"
        return f"<{what}: {conformers}, {row.min_energy_ev:.3f} eV>"

    @property
    def ok(self) -> bool:
        """Whether it has usable conformers; if not, `reason` and `message` say why."""
        return self.row.status == MoleculeStatus.OK

    @property
    def smiles(self) -> str | None:
        """Canonical isomeric SMILES of what was computed; None if it cannot be read."""
        return self.row.smiles

    @property
    def reason(self) -> str | None:
        """Why it is not ok, a word of docs/schema.md; None if it is."""
        return None if self.row.reason is None else str(self.row.reason)

    @property
    def message(self) -> str | None:
        """The reason in words, or what was changed before computing."""
        return self.row.message

    @property
    def usable(self) -> list[ConformerRow]:
        """Conformers that converged or ran out of steps, the lowest energy first."""
        found = [c for c in self.rows if self.ok and c.status in _USABLE]
        return sorted(found, key=lambda c: (c.energy_ev, c.conformer))

    @property
    def energies(self) -> np.ndarray:
        """eV, float64 [n_usable], ascending."""
        return np.array([c.energy_ev for c in self.usable], np.float64)

    @property
    def relative_energies(self) -> np.ndarray:
        """kcal/mol above the best conformer, float64 [n_usable], in the order of `energies`."""
        return np.array([c.relative_energy_kcal_mol for c in self.usable], np.float64)

    def mol(self) -> Chem.Mol:
        """An RDKit molecule with all hydrogens, bonds, charges, stereo and the usable conformers.

        Conformers stand in the order of `energies`, and have the numbers of their rows as
        properties, their partial charges as text. Atoms stand in the order of `row.mapped_smiles`.

        Raises:
            ValueError: The molecule is not ok.
        """
        usable = self._require_ok()
        numbers = usable[0].atomic_numbers
        geometries = {k: c.positions_angstrom.reshape(-1, 3) for k, c in enumerate(usable)}
        mol = molecule_of(self.row.mapped_smiles or "", numbers, geometries)
        mol.SetProp("_Name", self.row.input_id or self.row.smiles or "")
        for conformer, row in zip(mol.GetConformers(), usable, strict=True):
            conformer.SetIntProp("conformer", row.conformer)
            for name in ("energy_ev", "relative_energy_kcal_mol", "boltzmann_weight"):
                if (value := getattr(row, name)) is not None:
                    conformer.SetDoubleProp(name, value)
            set_charges(conformer, row.charges_e)
        return mol

    def atoms(self) -> list[Atoms]:
        """ASE's atoms of each usable conformer, energy and forces as their results.

        Raises:
            ValueError: The molecule is not ok.
        """
        found = []
        for row in self._require_ok():
            atoms = Atoms(row.atomic_numbers, row.positions_angstrom.reshape(-1, 3))
            atoms.info = {"charge": self.row.charge, "smiles": self.row.smiles}
            atoms.calc = SinglePointCalculator(
                atoms,
                energy=row.energy_ev,
                forces=row.forces_ev_per_angstrom.reshape(-1, 3),
                charges=row.charges_e if len(row.charges_e) else None,
            )
            found.append(atoms)
        return found

    def to_dict(self) -> dict[str, Any]:
        """Its row of `molecules`, by column."""
        return asdict(self.row)

    def _require_ok(self) -> list[ConformerRow]:
        if not self.ok:
            raise ValueError(f"{self!r} has no geometry: {self.message}")
        return self.usable


def screen_mols(
    molecules: Iterable[str | Chem.Mol | None],
    *,
    conformers: int | Literal["auto"] = 1,
    model: str | Path | Potential = "default",
    device: Device = "auto",
    backend: Backend = "auto",
    precision: Precision = "float32",
    optimizer: Literal["lbfgs", "fire"] = "lbfgs",
    fmax: float = 0.05,
    max_steps: int = 300,
    pre_relax: Literal["auto", "small", "none"] | Potential = "auto",
    max_atoms: int = 250,
    stereo: Stereo = "one",
    tautomers: bool = False,
    ph: float | None = None,
    ph_window: float = 0.0,
    max_variants: int = 8,
    max_conformers: int = 100,
    from_3d: From3D = "none",
    charges: bool = False,
    solvent: Literal["none", "water"] = "none",
    rescore: Literal["none", "teacher"] = "none",
    thermo: ThermoSettings | bool = False,
    seed: int = ChemistrySettings.seed,
    workers: int | None = None,
    progress: Progress | None = None,
) -> list[ScreenedMolecule]:
    """Relaxed 3D conformers with energies and forces of some molecules.

    >>> ethanol, xenon = screen_mols(["CCO", "[Xe]"], model="small", device="cpu")
    >>> ethanol.ok, ethanol.mol().GetNumAtoms(), xenon.reason
    (True, 9, 'unsupported_element')

    What a screen of a library does, with starting geometries by RDKit, and all of it in memory: for
    more than some ten thousand molecules, `mlff-screen run`.

    Args:
        molecules: SMILES, CXSMILES or RDKit molecules, whose own geometries are not used but with
            `from_3d`; None, as RDKit gives for what it cannot read, is rejected as such.
        conformers: Conformers to embed for each molecule, before pruning; "auto": as many as its
            rotatable bonds and rings suggest.
        model: As in `load_potential`, or a `Potential`, whose own device, backend and precision
            then hold.
        device: As in `load_potential`.
        backend: As in `load_potential`.
        precision: As in `load_potential`.
        optimizer: How each conformer is relaxed.
        fmax: A conformer has converged below this largest force, in eV/Å.
        max_steps: Relaxation steps at most; 0 is a single point.
        pre_relax: A cheaper model to walk with first: "small", or one that is loaded; "auto": the
            small one where `model` is "default" and geometries are embedded.
        max_atoms: Larger molecules, hydrogens counted, are rejected.
        stereo: Where stereo is undefined, "one" isomer is computed, all are ("enumerate"), or one
            of each pair of mirror images ("diastereomers").
        tautomers: Whether other tautomers are computed too; their energies are those in vacuum.
        ph: Compute the protonation state that dominates in water of this pH; None: as written.
        ph_window: With `ph`, states too that are at most so many pH units rarer, four in all.
        max_variants: Structures computed for one molecule at most.
        max_conformers: Most conformers of a molecule where `conformers` is "auto".
        from_3d: Relax the molecules' own geometries, the first of each: "all" atoms, "hydrogens"
            only, or all but the "frozen" ones, which a property `FROZEN_ATOMS` of the molecule
            names ("1 4 7-9", counted from 1).
        charges: Whether rows get `charges_e`, of a model that has partial charges.
        solvent: "water" adds solvation energies of the conformers in the window, and what follows
            from them: `solvation_kcal_mol` and its kin in `rows` and `row`.
        rescore: "teacher" asks AIMNet2 about the lowest conformers: `teacher_energy_ev` and its
            kin.
        thermo: Vibrations, enthalpy, entropy and Gibbs energy of each best conformer, at 298.15 K
            and 1 atm if True; fmax is 0.01 at most then.
        seed: Of conformers and of chosen stereo isomers.
        workers: Embedding processes; as many as are worth their start if None, none if 0: this
            process embeds then.
        progress: Told of each stage how many of how many molecules are through it.

    Returns:
        One entry a molecule, in their order; where other structures of it were asked for, one for
        each of them, `row.record` being the molecule's position and `row.variant` the structure's
        number. What goes wrong with a molecule is its status.

    Raises:
        ModelFileError: The checkpoint or the teacher is missing or damaged, the model has no
            charges to give, or `pre_relax` "small" does not know all that it knows.
        DeviceError: The device or the backend is not available here.
        TypeError: What is given are no molecules.
        ValueError: An argument is out of its range, or an extra is not installed.
    """
    _check(conformers, pre_relax, solvent, rescore, thermo)
    if solvent == "water":
        require_tblite()
    if rescore == "teacher":
        from mlff_core.distill.teacher import Teacher, find_teacher

        teacher_file, teacher_sha256 = find_teacher()
    relaxation = RelaxSettings(optimizer, min(fmax, THERMO_FMAX) if thermo else fmax, max_steps)
    posed = from_3d != "none"
    records = [_record(k, molecule, posed) for k, molecule in enumerate(_several(molecules))]
    walks_first = model == "default" and not posed
    if not isinstance(model, Potential):
        model = load_potential(
            model, device=device, backend=backend, precision=precision, charges=charges
        )
    if charges and not model.config.charges_after:
        raise ModelFileError(no_charges(model.name))
    first = pre_relax if isinstance(pre_relax, Potential) else None
    if isinstance(pre_relax, str) and max_steps:
        config, name = model.config, model.name
        found = pre_model(pre_relax, config, name, model.sha256, auto=walks_first)
        if found is not None:
            how: dict[str, Any] = {"backend": model.backend, "precision": model.precision}
            first = load_potential(found.file, device=model.device, **how)
    domain = model.domain
    settings = ChemistrySettings(
        n_conformers=None if conformers == "auto" else conformers,
        max_conformers=max_conformers,
        max_atoms=max_atoms,
        seed=seed,
        elements=domain.elements or KNOWN_ELEMENTS,
        min_charge=ChemistrySettings.min_charge if domain.min_charge is None else domain.min_charge,
        max_charge=ChemistrySettings.max_charge if domain.max_charge is None else domain.max_charge,
        model_sha256=model.sha256,
        expansion=Expansion(stereo, tautomers, ph, ph_window, max_variants),
        from_3d=from_3d,
    )
    if posed and settings.expansion.wanted:
        raise ValueError("from_3d takes structures as they are given: no stereo, tautomers or ph")
    if workers is None:
        structures = max_variants if settings.expansion.wanted else 1
        worth = len(records) * structures * settings.most_conformers // _CONFORMERS_A_PROCESS
        workers = min(usable_cores(), worth)

    def reporter(stage: str) -> Callable[[int], None] | None:
        if progress is None:
            return None
        return lambda n_done: progress(stage, n_done, len(records))

    with tempfile.TemporaryDirectory() as folder, pool_of(settings, workers) as pool:
        files = ShardFiles.of(Path(folder), 0)
        embed_shard(records, files.embedded, pool, progress=reporter("embed"))
        told = reporter("relax")
        relax_shard(files.embedded, files.relaxed, model, relaxation, told, pre_relax=first)
        if thermo:
            from mlff_core.properties.thermo_columns import add_thermochemistry

            conditions = ThermoSettings() if thermo is True else thermo
            add_thermochemistry(files.embedded, files.relaxed, model, conditions, relaxation)
        if solvent == "water":
            with pool_of(ChemistrySettings(hard_timeout_s=_SOLVENT_SECONDS), workers) as water:
                solvate_shard(files, water, reporter("solvate"))
        if rescore == "teacher":
            teacher = Teacher(Path(teacher_file), str(model.device), sha256=teacher_sha256)
            rescore_shard(files, teacher, reporter("rescore"))
        prepared, rows = judged_rows(files)
    if charges:
        for row, own in charges_of(prepared, rows, model):
            row.charges_e = own
    of: dict[tuple[int, int], list[ConformerRow]] = {}
    for row in rows:
        of.setdefault((row.record, row.variant), []).append(row)
    return [ScreenedMolecule(m, tuple(of.get((m.record, m.variant), ()))) for m in prepared]


def _check(conformers: Any, pre_relax: Any, solvent: Any, rescore: Any, thermo: Any) -> None:
    """Refuse what nothing further down would.

    Raises:
        ValueError: An argument is none of its choices.
    """
    whole = isinstance(conformers, Integral) and not isinstance(conformers, bool)
    if conformers != "auto" and not (whole and conformers >= 1):
        raise ValueError(f"conformers: expected 1 or more, or auto, found {conformers!r}")
    if not isinstance(pre_relax, Potential) and pre_relax not in ("auto", "small", "none"):
        raise ValueError(
            f"pre_relax: expected auto, small, none or a Potential, found {pre_relax!r}"
        )
    if solvent not in ("none", "water"):
        raise ValueError(f"solvent: expected none or water, found {solvent}")
    if rescore not in ("none", "teacher"):
        raise ValueError(f"rescore: expected none or teacher, found {rescore}")
    if not isinstance(thermo, bool | ThermoSettings):
        raise ValueError(f"thermo: expected True, False or ThermoSettings, found {thermo!r}")


def _several(molecules: Any) -> Iterator[str | Chem.Mol | None]:
    if isinstance(molecules, str | bytes | Chem.Mol) or not isinstance(molecules, Iterable):
        raise TypeError(
            "molecules: expected a list of SMILES or RDKit molecules, found "
            f"{type(molecules).__name__}; put it into a list"
        )
    return iter(molecules)


def _record(k: int, molecule: str | Chem.Mol | None, posed: bool) -> Record:
    """A molecule as an entry of a library, with its geometry if that is asked for.

    Raises:
        TypeError: It is none.
    """
    if molecule is None:
        return Record(k, None, None, "is None: RDKit could not read it")
    if isinstance(molecule, str):
        return Record(k, None, molecule, None)
    if not isinstance(molecule, Chem.Mol):
        raise TypeError(
            f"molecule {k}: expected a SMILES or an RDKit molecule, found {type(molecule).__name__}"
        )
    name = molecule.GetProp("_Name") if molecule.HasProp("_Name") else None
    if posed:
        block = Chem.MolToMolBlock(molecule)
        frozen = molecule.GetProp(_FROZEN) if molecule.HasProp(_FROZEN) else ""
        return Record(k, name, *smiles_of(block.split("\n"), posed=True), block + frozen)
    return Record(k, name, Chem.MolToCXSmiles(molecule, *_STEREO), None)


#: Property that names frozen atoms, as of an SD file.
_FROZEN: Final = "FROZEN_ATOMS"


#: Of a CXSMILES: what says more of the molecule than its SMILES does.
_STEREO: Final = (
    Chem.SmilesWriteParams(),
    Chem.CXSmilesFields.CX_BOND_ATROPISOMER | Chem.CXSmilesFields.CX_ENHANCEDSTEREO,
)
