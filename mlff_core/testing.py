"""What tests of this project share: named molecules, random models, and the physics contract."""

from collections.abc import Callable
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from mlff_core.batch import MolBatch
from mlff_core.distill.teacher import Label
from mlff_core.models.force_field import Domain, Outputs
from mlff_core.models.painn import PaiNN, PaiNNConfig
from mlff_core.models.potential import Potential
from mlff_core.moves.slots import Molecule, Rows
from mlff_core.moves.state import each
from mlff_core.neighbors import neighbor_pairs
from mlff_core.ops import plain
from mlff_core.ops.filters import FilterTable, spline_table
from mlff_core.ops.plain import Edges
from mlff_core.ops.program import (
    PLAIN_ATOM_OPS,
    AnalyticEngine,
    AtomOps,
    EdgeOps,
    blocks,
    filter_matrix,
    mlp_weights,
)
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


class _CoarseProducts(TorchFunctionMode):
    """Products with weights as the kernels of a precision compute them."""

    def __init__(self, precision: str):
        self.precision = precision
        super().__init__()

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        from mlff_core.ops.triton.operand import product_plain

        if function is torch.nn.functional.linear:
            x, w, *bias = args
            y = product_plain(x, w, self.precision)
            return y + bias[0] if bias and bias[0] is not None else y
        if function in (torch.Tensor.matmul, torch.Tensor.__matmul__):
            return product_plain(args[0], args[1].mT, self.precision)
        return function(*args, **(kwargs or {}))


class _FirstByElements(AnalyticEngine):
    """Plain PyTorch whose first block's messages are products, as `ops.triton.first_message` has
    them; see there for what is multiplied."""

    def __init__(self, model: PaiNN, ops: EdgeOps, atom_ops: AtomOps, products: tuple[str, str]):
        from mlff_core.ops.triton.steps import FILTER_SPLINES

        first = replace(ops, scalar_fwd=self.scalar_fwd, scalar_bwd=self.scalar_bwd)
        super().__init__(model, first, atom_ops)
        self.products = products
        message, _ = blocks(model)[0]
        filters = filter_matrix(message).detach()
        n_features, n_basis = len(filters) // 3, filters.shape[1]
        # What makes dq, and what makes dmu [2, n_charges, n_features, n_elements * n_basis].
        q = (model.charge.weight[:, None] + model.element.weight).detach().double()
        layers = [w.detach().double() for w in mlp_weights(message.phi)]
        phi = plain.mlp_fwd(q, *layers)[0][..., : 2 * n_features].unflatten(2, (2, n_features))
        used = filters[: 2 * n_features].double().view(2, n_features, n_basis)
        w = torch.einsum("cegf,gfk->gcfek", phi, used).flatten(3)
        self.to_q, self.to_mu = w.to(filters.dtype)
        unit = torch.eye(n_basis).to(filters)
        self.table = spline_table(unit, model.config.cutoff, *FILTER_SPLINES["float32"])

    def evaluate(
        self, numbers: Tensor, positions: Tensor, mol_idx: Tensor, ptr: Tensor, charge: Tensor
    ) -> tuple[Tensor, ...]:
        """As in `AnalyticEngine`."""
        self.element = self.model.atom_index[numbers]
        self.charge = charge[mol_idx] - self.model.config.min_charge
        return super().evaluate(numbers, positions, mol_idx, ptr, charge)

    def scalar_fwd(self, phi: Tensor, edges: Edges, filters: Tensor) -> tuple[Tensor, Tensor]:
        """As in `EdgeOps`."""
        b, _ = self.table.at(edges.distance)
        # Sums over the neighbours of each element [n_atoms, 1 or 3, n_elements * n_basis].
        place = edges.i, self.element[edges.j]
        shape = len(phi), len(self.model.config.elements)
        s = b.new_zeros(*shape, 1, b.shape[1]).index_put(place, b[:, None], accumulate=True)
        along = edges.unit[:, :, None] * b[:, None]
        t = b.new_zeros(*shape, 3, b.shape[1]).index_put(place, along, accumulate=True)
        s, t = (x.transpose(1, 2).flatten(2) for x in (s, t))
        how = self.products[0]
        return self.product(s, self.to_q, how)[:, 0], self.product(t, self.to_mu, how)

    def scalar_bwd(
        self, g_dq: Tensor, g_dmu: Tensor, phi: Tensor, edges: Edges, filters: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As in `EdgeOps`."""
        b, slope = self.table.at(edges.distance)
        how = self.products[1]
        g_s = self.product(g_dq[:, None], self.to_q.mT, how).unflatten(2, (-1, b.shape[1]))
        g_t = self.product(g_dmu, self.to_mu.mT, how).unflatten(2, (-1, b.shape[1]))
        place = self.element[edges.j]
        p, r = g_s[edges.i, 0, place], g_t[edges.i, :, place]
        radial = p + (r * edges.unit[:, :, None]).sum(1)
        return (radial * slope).sum(1), (r * b[:, None]).sum(2)

    def product(self, x: Tensor, w: Tensor, how: str) -> Tensor:
        """x [n_atoms, n_rows, n_in] times the transpose of what w has for each atom's charge."""
        from mlff_core.ops.triton.operand import product_plain

        y = x.new_zeros(*x.shape[:2], w.shape[1])
        for c in self.charge.unique().tolist():
            mine = self.charge == c
            rows = product_plain(x[mine].flatten(0, 1), w[c], how)
            y[mine] = rows.unflatten(0, (-1, x.shape[1]))
        return y


def coarse_engine(
    model: PaiNN,
    precision: str,
    products: tuple[str, str] | None = None,
    *,
    first_by_elements: bool = False,
) -> AnalyticEngine:
    """Plain PyTorch with the splines and products of `TritonEngine`, whose these are.

    What is left between it and the kernels is the order in which they add up, so that over many
    geometries the kernels may hardly be farther from float64 than it is. In one geometry either may
    be a few times as far off as the other: where roundings fall is chance.

    Args:
        model: The network.
        precision: As for `TritonEngine`.
        products: Likewise.
        first_by_elements: The first block's messages are products too.
    """
    from mlff_core.ops.triton.steps import FILTER_SPLINES, products_of

    tables: list[tuple[Tensor, FilterTable]] = []

    def splined(edges: Edges, filters: Tensor) -> tuple[Edges, Tensor]:
        """Pairs whose basis is the filter itself, and what leaves it so."""
        table = next((known for w, known in tables if torch.equal(w, filters)), None)
        if table is None:
            table = spline_table(filters, model.config.cutoff, *FILTER_SPLINES[precision])
            tables.append((filters, table))
        values, slopes = table.at(edges.distance)
        return edges._replace(basis=values, slope=slopes), torch.eye(len(filters)).to(filters)

    def message_fwd(
        phi: Tensor, mu: Tensor, edges: Edges, filters: Tensor
    ) -> tuple[Tensor, Tensor]:
        return plain.message_fwd(phi, mu, *splined(edges, filters))

    def message_bwd(
        g_dq: Tensor, g_dmu: Tensor, phi: Tensor, mu: Tensor, edges: Edges, filters: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return plain.message_bwd(g_dq, g_dmu, phi, mu, *splined(edges, filters))

    def coarse(operator: Any, how: str) -> Any:
        def run(*arguments: Any) -> Any:
            with _CoarseProducts(how):
                return operator(*arguments)

        return run

    forward, backward = products or products_of(precision, model.config.n_features)
    coarse_ops = AtomOps(
        **{
            name: coarse(operator, backward if name in ("mlp_bwd", "update_bwd") else forward)
            for name, operator in PLAIN_ATOM_OPS._asdict().items()
        }
    )
    ops = EdgeOps(message_fwd, message_bwd)
    if first_by_elements:
        return _FirstByElements(model, ops, coarse_ops, (forward, backward))
    return AnalyticEngine(model, ops, coarse_ops)


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
