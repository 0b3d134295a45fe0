"""The potential as an ASE calculator."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from rdkit import Chem

from mlff_core.batch import MolBatch
from mlff_core.buckets import batch_sizes, bucket_of
from mlff_core.charge import check_spin, check_vacuum, total_charge, warn_of_what_is_not_read
from mlff_core.chem.seen import seen_by
from mlff_core.chem.trust import composition_flags, trust_flags
from mlff_core.models.potential import Backend, Device, Potential, Precision, load_potential

#: What a model with partial charges gives besides.
_OF_CHARGES = ("charges", "dipole")


class PaiNNCalculator(Calculator):
    """Energies in eV and forces in eV/Å of molecules in vacuum.

    A model with partial charges also gives these (`get_charges`, e) and the dipole moment that they
    make (`get_dipole_moment`, e·Å), about the centre of mass where the molecule is charged.

    The total charge in e is `atoms.info["charge"]`, 0 where it is not set. All electrons are
    paired: an odd number of them is refused, and so is a spin multiplicity, `atoms.info["spin"]`,
    other than 1. Initial charges and magnetic moments of atoms are not read; where they say
    something else than what is computed, a warning tells. Finite differences of forces (vibrations)
    deserve `precision="float64"`.

    It can be copied and pickled, on its own and as the calculator of Atoms: see `Potential`.
    """

    implemented_properties = ["energy", "free_energy", "forces"]  # noqa: RUF012, ASE's own spelling

    def __init__(
        self,
        model: str | Path | Potential = "default",
        device: Device = "auto",
        backend: Backend = "auto",
        precision: Precision = "float32",
        *,
        charges: bool = False,
    ):
        """Load a model, or take one that is loaded.

        Args:
            model: As in `load_potential`, or a `Potential`, whose own device, backend and
                precision then hold.
            device: As in `load_potential`.
            backend: As in `load_potential`.
            precision: As in `load_potential`.
            charges: As in `load_potential`.

        Raises:
            ModelFileError: The checkpoint is missing or damaged, or has no charges to read.
            DeviceError: The device or the backend is not available here.
        """
        super().__init__()
        if isinstance(model, Potential):
            self.potential = model
        else:
            self.potential = load_potential(
                model, device=device, backend=backend, precision=precision, charges=charges
            )
        if self.potential.config.charges_after:
            self.implemented_properties = [*self.implemented_properties, *_OF_CHARGES]

    def get_property(
        self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True
    ) -> float | np.ndarray | None:
        """A property, computed if need be; what ASE's own getters call.

        Raises:
            PropertyNotImplementedError: The model does not give it; says so of partial charges.
        """
        if name in _OF_CHARGES and name not in self.implemented_properties:
            raise PropertyNotImplementedError(
                f"{name}: model {self.potential.name} has no partial charges"
            )
        return super().get_property(name, atoms, allow_calculation)

    def flags(self, atoms: Atoms) -> list[str]:
        """What of a molecule the training hardly saw, in words of docs/schema.md; often nothing.

        Elements, size and total charge are always looked at. Surroundings of charges and how many
        there are need bonds: a SMILES in `atoms.info["smiles"]`, as `ScreenedMolecule.atoms` has.

        Raises:
            OutOfDomainError: The charge is none.
            ValueError: The SMILES cannot be read.
        """
        seen = seen_by(self.potential.sha256)
        smiles = atoms.info.get("smiles")
        if smiles is None:
            found = composition_flags(atoms.numbers.tolist(), total_charge(atoms), seen)
        elif (mol := Chem.MolFromSmiles(smiles)) is None:
            raise ValueError(f"atoms.info['smiles']: cannot be read: {smiles!r}")
        else:
            found = trust_flags(mol, smiles, seen)
        return [str(flag) for flag in found]

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """What changed since the last calculation; the charge counts, though ASE ignores `info`."""
        changes = super().check_state(atoms, tol=tol)
        check_spin(atoms)
        if self.atoms is not None and total_charge(atoms) != total_charge(self.atoms):
            return [*changes, "charge"]
        return changes

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Fill `results`; what ASE calls.

        Raises:
            OutOfDomainError: An element or a charge that the model does not know, an odd number of
                electrons, a spin multiplicity other than 1, or a periodic system.
        """
        if atoms is not None:
            # Before ASE keeps a copy of it, which the next molecule would be compared with.
            total_charge(atoms)
        super().calculate(atoms, list(properties), list(system_changes))
        assert self.atoms is not None
        (self.results,) = self.calculate_batch([self.atoms], self.implemented_properties)

    def calculate_batch(
        self, systems: Sequence[Atoms], properties: Sequence[str] = ("energy", "forces")
    ) -> list[dict[str, float | np.ndarray]]:
        """Properties of many molecules, computed together, in the order given.

        Args:
            systems: Molecules of any sizes; not changed, and their calculators are not asked.
            properties: Some of "energy" (eV), "free_energy" (the same), "forces"
                (eV/Å [n_atoms, 3]); of a model with partial charges "charges" (e [n_atoms]) and
                "dipole" (e·Å [3]).

        Raises:
            OutOfDomainError: An element or a charge that the model does not know, an odd number of
                electrons, a spin multiplicity other than 1, or a periodic system.
            TypeError: A system is no `Atoms`.
            ValueError: A property is none of these, or the model does not give it.
        """
        for name in properties:
            if name not in self.implemented_properties:
                known = ", ".join(self.implemented_properties)
                raise ValueError(f"properties: expected some of {known}, found {name!r}")
        if isinstance(systems, Atoms):
            raise TypeError("systems: expected a list of Atoms, found one; put it into a list")
        for k, atoms in enumerate(systems):
            if not isinstance(atoms, Atoms):
                raise TypeError(f"molecule {k}: expected Atoms, found {type(atoms).__name__}")
            check_spin(atoms)
            warn_of_what_is_not_read(atoms)
            check_vacuum(atoms, k)
        potential = self.potential
        sizes = batch_sizes("auto", potential.device, potential.bytes_per_edge)
        order = sorted(range(len(systems)), key=lambda k: len(systems[k]))
        results: list[dict[str, float | np.ndarray]] = [{} for _ in systems]
        while order:
            # The largest of the batch decides its bucket, so take the largest first.
            n_mols = sizes[bucket_of(len(systems[order[-1]]))]
            chosen, order = order[-n_mols:], order[:-n_mols]
            for k, values in zip(chosen, self._evaluate([systems[k] for k in chosen]), strict=True):
                results[k] = {name: values[name] for name in properties}
        return results

    def _evaluate(self, systems: Sequence[Atoms]) -> list[dict[str, float | np.ndarray]]:
        batch = MolBatch.from_arrays(
            # Far from the origin float32 would round what the model sees, so begin at the centre.
            [
                (atoms.numbers, atoms.positions - atoms.positions.mean(0), total_charge(atoms))
                for atoms in systems
            ],
            dtype=self.potential.dtype,
        )
        out = self.potential(batch)
        forces = batch.split(out.forces.cpu().double())
        results: list[dict[str, float | np.ndarray]] = [
            {"energy": energy, "free_energy": energy, "forces": f.numpy()}
            for energy, f in zip(out.energy.tolist(), forces, strict=True)
        ]
        if out.charges is not None:
            split = batch.split(out.charges.cpu().double())
            for values, atoms, charges in zip(results, systems, split, strict=True):
                values["charges"] = charges.numpy()
                values["dipole"] = charges.numpy() @ (atoms.positions - atoms.get_center_of_mass())
        return results
