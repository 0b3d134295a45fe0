"""Any ASE calculator as a force field."""

import threading
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import CalculationFailed, Calculator, SCFError

from mlff_core.batch import MolBatch
from mlff_core.models.force_field import Domain, Outputs


class AseForceField:
    """Any ASE calculator behind the port `ForceField`, one molecule after the other, on the CPU.

    What relaxes and moves molecules here so takes a semi-empirical program or another network, to
    compare with. The calculator finds a molecule's total charge in `atoms.info["charge"]`; one that
    looks for it elsewhere needs a subclass of its own. It is asked by one thread at a time. Partial
    charges are passed on if it has them.
    """

    bytes_per_edge = 0
    bare_step: Callable[[MolBatch], Outputs] | None = None

    def __init__(
        self,
        calculator: Calculator,
        *,
        name: str = "",
        domain: Domain | None = None,
        cutoff: float = float("inf"),
    ):
        """Take a calculator.

        Args:
            calculator: Gives energies in eV and forces in eV/Å.
            name: What to call it; empty for the name of its class.
            domain: Which molecules it knows; None for all.
            cutoff: Å beyond which atoms do not feel each other. A molecule that falls into parts
                farther apart than that has exploded; without one, nobody notices.
        """
        self.calculator, self.domain, self.cutoff = calculator, domain or Domain(), cutoff
        self.name, self.sha256 = name or type(calculator).__name__, ""
        self.device, self.dtype = torch.device("cpu"), torch.float64
        self._one_at_a_time = threading.Lock()

    def evaluate(self, batch: MolBatch) -> Outputs:
        """Energies, forces and, if the calculator has them, charges; as `ForceField.evaluate`."""
        has_charges = "charges" in self.calculator.implemented_properties
        energies, forces, charges = [], [np.zeros((0, 3))], [np.zeros(0)]
        parts = zip(batch.split(batch.numbers), batch.split(batch.positions), strict=True)
        for (numbers, positions), charge in zip(parts, batch.charge.tolist(), strict=True):
            atoms = Atoms(numbers.numpy(), positions.double().numpy(), info={"charge": charge})
            # What cannot be computed is NaN, and the batch goes on.
            energy, force = np.nan, np.full((len(atoms), 3), np.nan)
            partial = np.full(len(atoms), np.nan)
            if len(atoms) == 0:
                energy = 0.0
            elif positions.isfinite().all():
                with self._one_at_a_time, suppress(CalculationFailed, SCFError):
                    force = np.array(self.calculator.get_forces(atoms), float)
                    if has_charges:
                        partial = np.array(self.calculator.get_charges(atoms), float)
                    energy = float(self.calculator.get_potential_energy(atoms))
            energies.append(energy)
            forces.append(force)
            charges.append(partial)
        return Outputs(
            energy=torch.tensor(energies, dtype=torch.float64),
            forces=torch.from_numpy(np.concatenate(forces)),
            charges=torch.from_numpy(np.concatenate(charges)) if has_charges else None,
        )
