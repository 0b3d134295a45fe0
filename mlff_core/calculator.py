"""The potential as an ASE calculator."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from mlff_core.batch import MolBatch, whole_number
from mlff_core.buckets import batch_sizes, bucket_of
from mlff_core.errors import OutOfDomainError
from mlff_core.models.potential import Backend, Device, Potential, Precision, load_potential


class PaiNNCalculator(Calculator):
    """Energies in eV and forces in eV/Å of molecules in vacuum.

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
    ):
        """Load a model, or take one that is loaded.

        Args:
            model: As in `load_potential`, or a `Potential`, whose own device, backend and
                precision then hold.
            device: As in `load_potential`.
            backend: As in `load_potential`.
            precision: As in `load_potential`.

        Raises:
            ModelFileError: The checkpoint is missing or damaged.
            DeviceError: The device or the backend is not available here.
        """
        super().__init__()
        if isinstance(model, Potential):
            self.potential = model
        else:
            self.potential = load_potential(
                model, device=device, backend=backend, precision=precision
            )

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
        super().calculate(atoms, list(properties), list(system_changes))
        assert self.atoms is not None
        (self.results,) = self.calculate_batch([self.atoms], self.implemented_properties)

    def calculate_batch(
        self, systems: Sequence[Atoms], properties: Sequence[str] = ("energy", "forces")
    ) -> list[dict[str, float | np.ndarray]]:
        """Properties of many molecules, computed together, in the order given.

        Args:
            systems: Molecules of any sizes; not changed, and their calculators are not asked.
            properties: Some of "energy" (eV), "free_energy" (the same) and "forces"
                (eV/Å [n_atoms, 3]).

        Raises:
            OutOfDomainError: An element or a charge that the model does not know, an odd number of
                electrons, a spin multiplicity other than 1, or a periodic system.
            TypeError: A system is no `Atoms`.
            ValueError: A property is not one of the three.
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
            if any(atoms.pbc):
                raise OutOfDomainError(
                    f"molecule {k} is periodic (pbc = {atoms.pbc.tolist()}), "
                    f"model {self.potential.name} knows molecules in vacuum"
                )
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
        return [
            {"energy": energy, "free_energy": energy, "forces": f.numpy()}
            for energy, f in zip(out.energy.tolist(), forces, strict=True)
        ]


def total_charge(atoms: Atoms) -> int:
    """`atoms.info["charge"]`, 0 where it is not set.

    Raises:
        OutOfDomainError: It is not a whole number.
    """
    return _whole(atoms.info.get("charge", 0), 'total charge, atoms.info["charge"]')


#: What people write a spin multiplicity under.
SPIN_KEYS = ("spin", "multiplicity", "spin_multiplicity", "mult")


def check_spin(atoms: Atoms) -> None:
    """Refuse a spin multiplicity other than 1.

    Raises:
        OutOfDomainError: `atoms.info["spin"]`, or what else it may be called, is not 1.
    """
    for key in SPIN_KEYS:
        if key in atoms.info:
            what = f'spin multiplicity, atoms.info["{key}"]'
            if (found := _whole(atoms.info[key], what)) != 1:
                raise OutOfDomainError(
                    f"{what}: expected 1, all electrons paired, found {found}: the model knows "
                    "closed shells only"
                )


def warn_of_what_is_not_read(atoms: Atoms) -> None:
    """Warn of initial charges and magnetic moments that say something else than is computed."""
    charge, initial = total_charge(atoms), float(atoms.get_initial_charges().sum())
    if abs(initial - charge) > 0.5 and "charge" not in atoms.info:
        warnings.warn(
            f"the initial charges of {atoms.get_chemical_formula()} add up to {initial:+.2f} e and "
            'are not read; its total charge is atoms.info["charge"], which is not set: 0',
            stacklevel=3,
        )
    if np.abs(atoms.get_initial_magnetic_moments()).max(initial=0.0) > 0.0:
        warnings.warn(
            f"the initial magnetic moments of {atoms.get_chemical_formula()} are not read; all "
            "electrons are paired",
            stacklevel=3,
        )


def _whole(value: object, what: str) -> int:
    try:
        return whole_number(value, what)
    except ValueError as error:
        raise OutOfDomainError(str(error)) from error
