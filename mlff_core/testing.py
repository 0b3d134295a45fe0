"""What tests of this project share: named molecules, random models, and the physics contract."""

from collections.abc import Callable
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from mlff_core.batch import MolBatch
from mlff_core.distill.teacher import Label
from mlff_core.models.force_field import Domain, Outputs
from mlff_core.models.painn import PaiNN, PaiNNConfig
from mlff_core.models.potential import Potential
from mlff_core.moves.slots import Molecule, Rows
from mlff_core.moves.state import each
from mlff_core.neighbors import neighbor_pairs
from mlff_core.status import ConformerStatus

#: Geometries by name: (numbers, positions in Å, charge). Every bug adds its own.
NAMED_MOLECULES: dict[str, tuple[list[int], list[list[float]], int]] = {
    "hydride": ([1], [[0.0, 0.0, 0.0]], -1),
    "hydrogen": ([1, 1], [[0.0, 0.0, 0.0], [0.0, 0.0, 0.74]], 0),
    "two fluorides beyond the cutoff": (
        [9, 9],
        [[0.0, 0.0, 0.0], [0.0, 0.0, 7.5]],
        -2,
    ),
    "water": ([8, 1, 1], [[0.0, 0.0, 0.12], [0.0, 0.76, -0.48], [0.0, -0.76, -0.48]], 0),
    "ammonium": (
        [7, 1, 1, 1, 1],
        [[0, 0, 0], [0.6, 0.6, 0.6], [-0.6, -0.6, 0.6], [-0.6, 0.6, -0.6], [0.6, -0.6, -0.6]],
        1,
    ),
    "bromochlorofluoromethane": (
        [6, 35, 17, 9, 1],
        [[0, 0, 0], [0, 0, 1.95], [1.66, 0, -0.58], [-0.65, 1.13, -0.45], [-0.5, -0.9, -0.35]],
        0,
    ),
}


def script_at(path: Path) -> ModuleType:
    """A script as a module, without what it does when it is run."""
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def random_model(
    seed: int = 0, config: PaiNNConfig | None = None, *, n_features: int = 128
) -> PaiNN:
    """A PaiNN with random weights, biases included, so that no term hides behind a zero.

    Energies and forces come out in the order of eV and eV/Å.
    """
    generator = torch.Generator().manual_seed(seed)
    model = PaiNN(config or PaiNNConfig(n_features=n_features))
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        if name.endswith("bias"):
            scale = 0.1
        elif name.startswith(("element", "charge")):
            scale = 1.0
        else:
            scale = 0.6 / parameter.shape[-1] ** 0.5
        parameter.data = (scale * noise).to(parameter.dtype)
    reference = torch.randn(len(model.config.elements), generator=generator, dtype=torch.float64)
    model.reference_energy.copy_(100.0 * reference)
    return model


def without_charges(network: PaiNN) -> PaiNN:
    """A network less its partial charges, and with them less some of what it learnt."""
    shape = replace(network.config, charges_after=0, charge_feedback=False, coulomb=False)
    state = network.state_dict()
    rest = PaiNN(shape)
    rest.load_state_dict({k: v for k, v in state.items() if not k.startswith("partial_charges.")})
    return rest


def random_potential(seed: int = 0, **options: object) -> Potential:
    """A potential with random weights on the CPU; options as those of `Potential`."""
    return Potential(random_model(seed), **options)  # type: ignore[arg-type]


def random_molecule(
    n_atoms: int, seed: int = 0, *, spacing: float = 1.7, charge: int = 0
) -> tuple[np.ndarray, np.ndarray, int]:
    """A compact cloud of atoms no closer than about 0.8 Å, about as dense as a molecule."""
    rng = np.random.default_rng((seed, n_atoms))
    side = int(np.ceil(n_atoms ** (1 / 3)))
    grid = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), -1).reshape(-1, 3)
    chosen = grid[np.sort(rng.permutation(len(grid))[:n_atoms])] * spacing
    positions = chosen + rng.uniform(-0.2, 0.2, (n_atoms, 3)) * spacing
    numbers = rng.choice([1, 1, 1, 6, 6, 6, 7, 8, 9, 16, 17], n_atoms)
    return numbers, positions, charge


def drug_like() -> list[tuple[np.ndarray, np.ndarray, int]]:
    """Numbers, positions in Å and charge of the 256 molecules of the benchmarks in a checkout."""
    data = np.load(Path(__file__).parents[1] / "benchmarks" / "molecules.npz")
    spans = zip(data["ptr"][:-1], data["ptr"][1:], data["charge"].tolist(), strict=True)
    return [(data["numbers"][a:b], data["positions"][a:b], q) for a, b, q in spans]


def awkward_rows(dtype: torch.dtype) -> Rows:
    """Slots of 15 atoms: several sizes, overlapping atoms, a NaN, one atom, frozen ones, nobody."""
    chosen = [
        *(random_molecule(n, seed=5) for n in (9, 4, 13)),
        ([6, 6, 1], [[0.0, 0, 0], [0, 0, 0.3], [0, 1, 0]], 0),
        ([8, 1], [[0.0, 0, 0], [0, np.nan, 1]], 0),
        NAMED_MOLECULES["hydride"],
        random_molecule(7, seed=6),
    ]
    free = [None] * 6 + [np.arange(7) % 3 > 0]
    molecules = [
        Molecule(k, np.asarray(numbers), np.asarray(positions, float), charge, moves)
        for k, ((numbers, positions, charge), moves) in enumerate(zip(chosen, free, strict=True))
    ]
    device = torch.device("cpu")
    both = Rows.pack(molecules, 15, device, dtype), Rows.empty(1, 15, device, dtype)
    return each(lambda *rows: torch.cat(rows), *both)


def named_batch(dtype: torch.dtype = torch.float64) -> MolBatch:
    """All named molecules in one batch."""
    return MolBatch.from_arrays(NAMED_MOLECULES.values(), dtype=dtype)


def random_rotation(seed: int = 0) -> Tensor:
    """A proper rotation, float64 [3, 3]."""
    generator = torch.Generator().manual_seed(seed)
    q, r = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))
    q = q * r.diagonal().sign()
    return q * torch.linalg.det(q).sign()


class AutogradEngine:
    """PaiNN as it is written, forces by automatic differentiation: what every engine means."""

    def __init__(self, model: PaiNN):
        self.model = model

    def evaluate(
        self, numbers: Tensor, positions: Tensor, mol_idx: Tensor, ptr: Tensor, charge: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Energy in eV, float64 [n_mols], and forces in eV/Å [n_atoms, 3]."""
        with torch.enable_grad():
            x = positions.detach().requires_grad_(True)
            i, j = neighbor_pairs(x.detach(), ptr, self.model.config.cutoff)
            energy = self.model(numbers, x, mol_idx, charge, i, j)
            (gradient,) = torch.autograd.grad(energy.sum(), x)
        energy = energy.detach()
        # The gradient skips an atom at NaN, so the molecule's other forces would look sound.
        return energy, torch.where(energy.isnan()[mol_idx][:, None], torch.nan, -gradient)


class SpringTeacher:
    """A teacher that costs nothing: pairs of atoms on soft springs, and a price for each element.

    Labels padded batches as `mlff_core.distill.teacher.Teacher` does. Its force is the exact slope
    of its energy, and its members disagree by a known amount. Its charges follow the numbers of
    protons, what is left over shared out alike.
    """

    def __init__(self, device: torch.device | str = "cpu", spread: float = 0.0):
        self.sha256 = "0" * 64
        self.device = torch.device(device)
        self.spread = spread

    def member(self, index: int, numbers: Tensor, positions: Tensor, charge: Tensor) -> Label:
        """The same for every member."""
        real = numbers > 0
        pairs = real[:, :, None] & real[:, None, :]
        pairs &= ~torch.eye(numbers.shape[1], dtype=torch.bool, device=numbers.device)
        with torch.enable_grad():
            x = positions.detach().clone().requires_grad_(True)
            squared = (x[:, :, None] - x[:, None]).square().sum(-1)
            d = torch.where(pairs, squared, 1.0).sqrt()
            spring = torch.where(pairs, 0.5 * (d - 1.4).square() * torch.exp(-d), 0.0)
            bonded = spring.sum((1, 2)).double()
            (slope,) = torch.autograd.grad(bonded.sum(), x)
        energy = bonded.detach() - 3.0 * numbers.sum(1).double() + 0.1 * charge.double()
        own = torch.where(real, 0.3 - 0.05 * numbers.to(x.dtype), 0.0)
        missing = (charge.to(x.dtype) - own.sum(1)) / real.sum(1).clamp(min=1)
        charges = torch.where(real, own + missing[:, None], 0.0)
        return Label(energy, -slope, torch.full_like(energy, self.spread), charges)

    def __call__(self, numbers: Tensor, positions: Tensor, charge: Tensor) -> Label:
        """What any member says."""
        return self.member(0, numbers, positions, charge)


class Journeys:
    """A force field of springs that take chains of atoms from where they are to places far away.

    Attributes:
        chains: By name: where the atoms are, where they are at rest, Å [n_atoms, 3], and how a
            relaxation with a cutoff of 5 Å has to end.
        batch: All of them in this order; the charge of each is its number.
        places: Where their atoms are at rest, Å [n_mols, n_atoms, 3].
    """

    name, sha256, device, dtype = "journeys", "", torch.device("cpu"), torch.float64
    domain, cutoff, bytes_per_edge = Domain(), 5.0, 0
    bare_step: Callable[[MolBatch], Outputs] | None = None

    def __init__(self) -> None:
        x, y = np.array([1.0, 0.0, 0.0]), np.array([0.0, 1.0, 0.0])
        k = np.arange(12)[:, None]
        straight = 1.4 * k * x
        hairpin = np.where(k < 6, straight, straight[::-1] + 1.4 * y)
        sides = np.where(k < 6, -x, x)
        two = straight + 3.0 * sides
        converged, exploded = ConformerStatus.CONVERGED, ConformerStatus.EXPLODED
        self.chains = {
            "an end folds back by 15 Å": (straight, hairpin, converged),
            "all atoms go 12 Å the same way": (straight, straight + 12.0 * y, converged),
            "an atom goes 6 Å and is alone": (straight, straight + 6.0 * (k == 11) * x, exploded),
            "two parts go 12 Å each their way": (two, two + 12.0 * sides, exploded),
        }
        self.batch = MolBatch.from_arrays(
            [([6] * 12, start, k) for k, (start, _, _) in enumerate(self.chains.values())],
            dtype=self.dtype,
        )
        ends = np.stack([end for _, end, _ in self.chains.values()])
        self.places = torch.from_numpy(ends).to(self.dtype)

    def evaluate(self, batch: MolBatch) -> Outputs:
        """Energies of the springs, 0.1 eV/Å², and their forces; none on padding."""
        within = torch.arange(batch.n_atoms) - batch.ptr[batch.mol_idx]
        within = torch.where(batch.numbers > 0, within, 0)
        away = batch.positions - self.places[batch.charge[batch.mol_idx], within]
        away = torch.where(batch.numbers[:, None] > 0, away, 0.0)
        energy = torch.zeros(batch.n_mols, dtype=torch.float64)
        energy.index_add_(0, batch.mol_idx, 0.05 * away.square().sum(1).double())
        return Outputs(energy, -0.1 * away)
