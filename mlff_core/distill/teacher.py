"""The teacher: AIMNet2 (ωB97M-D3) from its TorchScript files, behind one class.

D. Anstine, R. Zubatyuk, O. Isayev, "AIMNet2: a neural network potential to meet your neutral,
charged, organic, and elemental-organic needs", Chem. Sci. 2025. The file of the ensemble holds
four networks; their mean is what the student learns and their spread says where the teacher does
not know. `datasets/fetch_teacher.py` gets the file.

Where the file holds AIMNet2s, `aimnet2.py` evaluates their weights, all members at once; what it
says is held against the TorchScript when the file is opened.
"""

import hashlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from mlff_core.distill.aimnet2 import AIMNet2
from mlff_core.errors import ModelFileError

log = logging.getLogger(__name__)

#: The mean of four, with its spread: where the wheel keeps it, and what it must be.
ENSEMBLE_FILE = "aimnet2_wb97m_ens_f.jpt"
ENSEMBLE_SHA256 = "e34e147e3dd67bfe3e5ae8c2a2a097d59ff3a8260d98e42552004f710bb3a68b"


def default_cache() -> Path:
    """Where `datasets/fetch_teacher.py` keeps the file, if nothing else is asked for."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlff-screen"


def find_teacher() -> tuple[str, str]:
    """Path and sha256 of the teacher's file, where it was fetched to.

    Raises:
        ModelFileError: It was not fetched, or is damaged.
    """
    path = default_cache() / ENSEMBLE_FILE
    return str(path), Teacher.check(path, ENSEMBLE_SHA256)


@dataclass(frozen=True)
class Label:
    """What the teacher says of a padded batch.

    Attributes:
        energy: eV, float64 [n_mols].
        forces: eV/Å [n_mols, width, 3], zero on padding.
        force_spread: Largest standard deviation of an atom's force over the members, the norm
            over x, y and z, in eV/Å [n_mols]; zero where one member labelled.
        charges: Partial charges in e, zero on padding [n_mols, width]; None where who labels has
            none, as the TorchScript.
    """

    energy: Tensor
    forces: Tensor
    force_spread: Tensor
    charges: Tensor | None = None


class LabelsMolecules(Protocol):
    """Whatever labels padded batches: the teacher, or a cheaper stand-in of a test.

    Attributes:
        sha256: Of the file that it came from.
        device: Where it labels.
    """

    sha256: str
    device: torch.device

    def member(self, index: int, numbers: Tensor, positions: Tensor, charge: Tensor) -> Label:
        """A cheaper opinion, for driving relaxations and trajectories."""

    def __call__(self, numbers: Tensor, positions: Tensor, charge: Tensor) -> Label:
        """The label."""


class Teacher:
    """The ensemble on a device.

    Attributes:
        sha256: Of the file.
        n_members: Number of networks.
        networks: Their weights in few large operations; None where the TorchScript itself labels.
    """

    def __init__(
        self,
        path: Path,
        device: torch.device | str,
        *,
        sha256: str = ENSEMBLE_SHA256,
        scripted: bool = False,
    ):
        """Load the ensemble.

        Args:
            path: The file.
            device: Where it labels.
            sha256: What the file must be.
            scripted: Whether the TorchScript itself labels, which is what the other way means.

        Raises:
            ModelFileError: The file is missing, or not the one expected.
        """
        self.sha256 = self.check(path, sha256)
        self.device = torch.device(device)
        ensemble = torch.jit.load(str(path), map_location=self.device).eval()
        self._members = list(ensemble.models.children())
        for member in self._members:
            for parameter in member.parameters():
                parameter.requires_grad = False
        self.n_members = len(self._members)
        self.networks = None if scripted else self._checked_networks()

    @staticmethod
    def check(path: Path, sha256: str = ENSEMBLE_SHA256) -> str:
        """The sha256 of a teacher's file, if it is the one expected.

        Raises:
            ModelFileError: The file is missing, or not the one expected; names both sha256.
        """
        try:
            found = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise ModelFileError(
                f"{path}: no teacher there ({error}); datasets/fetch_teacher.py gets it"
            ) from error
        if found != sha256:
            raise ModelFileError(f"{path}: damaged: expected sha256 {sha256}, found {found}")
        return found

    def _checked_networks(self) -> AIMNet2 | None:
        """The networks, if they are AIMNet2s that say what the TorchScript says."""
        try:
            networks = AIMNet2([member.module for member in self._members])
        except (AttributeError, ValueError) as error:
            log.info("the teacher is evaluated by its TorchScript: %s", error)
            return None
        # Hydroxide, ammonia and a lone chloride, bent and stretched at random.
        numbers = torch.tensor([[8, 1, 0, 0], [7, 1, 1, 1], [17, 0, 0, 0]], device=self.device)
        spread = torch.rand(3, 4, 3, generator=torch.Generator().manual_seed(1))
        corners = torch.tensor([[0.0, 0, 0], [1.1, 0, 0], [0, 1.1, 0], [0, 0, 1.1]])
        positions = (corners + 0.1 * spread).to(self.device)
        charge = torch.tensor([-1, 0, -1], device=self.device)
        _, forces, _ = networks(numbers, positions, charge, list(range(self.n_members)))
        for index, found in enumerate(forces):
            meant = self._ask_script(index, numbers, positions, charge).forces
            if not torch.allclose(found, meant, rtol=1e-2, atol=1e-2):
                log.warning("aimnet2.py differs from the TorchScript, which labels instead")
                return None
        return networks

    def member(self, index: int, numbers: Tensor, positions: Tensor, charge: Tensor) -> Label:
        """What one member says: a quarter of the price.

        Args:
            index: Which member; any whole number.
            numbers: Atomic numbers, 0 on padding, int64 [n_mols, width].
            positions: Å [n_mols, width, 3].
            charge: Total charges in e [n_mols].
        """
        if self.networks is None:
            return self._ask_script(index, numbers, positions, charge)
        chosen = [index % self.n_members]
        energy, forces, charges = self.networks(numbers, positions, charge, chosen)
        return Label(energy[0], forces[0], torch.zeros_like(forces[0, :, 0, 0]), charges[0])

    def _ask_script(self, index: int, numbers: Tensor, positions: Tensor, charge: Tensor) -> Label:
        """What one member's TorchScript says; arguments as `member`."""
        data = {
            "coord": positions.detach().float().clone(),
            "numbers": numbers,
            "charge": charge.float(),
        }
        # Left to itself, TorchScript would specialise and recompile for every new shape.
        with torch.jit.optimized_execution(False):
            out = self._members[index % self.n_members](data)
        forces = torch.where((numbers > 0)[..., None], out["forces"].detach(), 0.0)
        energy = out["energy"].detach().double()
        return Label(energy, forces, torch.zeros_like(forces[:, 0, 0]))

    def __call__(self, numbers: Tensor, positions: Tensor, charge: Tensor) -> Label:
        """What the members say on average, and how far apart they are; arguments as `member`."""
        mean_charges = None
        if self.networks is None:
            labels = [self.member(k, numbers, positions, charge) for k in range(self.n_members)]
            energy = torch.stack([label.energy for label in labels])
            forces = torch.stack([label.forces for label in labels])
        else:
            every = list(range(self.n_members))
            energy, forces, charges = self.networks(numbers, positions, charge, every)
            mean_charges = charges.mean(0)
        spread = forces.var(0).sum(-1).sqrt().amax(-1)
        return Label(energy.mean(0), forces.mean(0), spread, mean_charges)
