"""PaiNN, an equivariant message-passing potential, in plain PyTorch.

K. T. Schütt, O. T. Unke, M. Gastegger, "Equivariant message passing for the prediction of
tensorial properties and molecular spectra", ICML 2021 (arXiv:2102.03150). Names follow the paper:

    q, mu       scalar features [n_atoms, 1, n_features], vector features [n_atoms, 3, n_features]
    phi, W_ij   what the sender says; the filter, a function of the distance alone
    U, V        the two mixings of the vector features in the update block

Six things differ from the paper, each for a reason:
- the cutoff multiplies what the filter network returns, bias included: were it to multiply the
  radial basis instead, the bias would survive at the cutoff and the energy would jump there;
- the total charge of the molecule enters through an embedding that is added to each atom's;
- a screened nuclear repulsion (ZBL) acts below the sum of two covalent radii, where no training
  data is, so that atoms cannot fall into each other;
- the network sees no pair closer than 0.6 Å (`seen_distance`), where no data is either: what it
  makes of distances that it never met grows from block to block until no repulsion holds it up;
- the norm of a vector feature has a wide floor, and the repulsion fades out over some hundredths of
  a bond's length: a surface with features narrower than a step of dynamics does not keep the total
  energy, however exact its forces;
- if the shape says so, atoms have partial charges (`partial_charges.py`), which add up to the total
  charge, are fed back to the features, and have a Coulomb energy at any distance.
"""

import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from mlff_core.elements import COVALENT_RADII, KNOWN_ELEMENTS
from mlff_core.models.partial_charges import PartialCharges
from mlff_core.ops.plain import NORM_FLOOR, REPULSION_WIDTH, seen_distance
from mlff_core.units import BOHR_ANGSTROM, COULOMB_EV_ANGSTROM


@dataclass(frozen=True)
class PaiNNConfig:
    """What defines the model's shape and domain; stored in every checkpoint.

    Attributes:
        n_features: Width of scalar and vector features.
        n_interactions: Number of message + update blocks.
        n_rbf: Number of radial basis functions.
        cutoff: Radius of a neighbourhood in Å.
        elements: Atomic numbers that the model knows.
        min_charge: Lowest total charge that the model knows, in e.
        max_charge: Highest total charge that the model knows, in e.
        charges_after: The block after which partial charges are read, from 1; 0 for none.
        charge_feedback: Whether the charges are fed back to the features there.
        coulomb: Whether the charges have a Coulomb energy.
    """

    n_features: int = 128
    n_interactions: int = 3
    n_rbf: int = 20
    cutoff: float = 5.0
    elements: tuple[int, ...] = KNOWN_ELEMENTS
    min_charge: int = -3
    max_charge: int = 3
    charges_after: int = 0
    charge_feedback: bool = False
    coulomb: bool = False

    def __post_init__(self) -> None:
        for name in ("n_features", "n_interactions", "n_rbf"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, found {getattr(self, name)}")
        if not 0 < self.cutoff < math.inf:
            raise ValueError(f"cutoff: expected more than 0 Å, found {self.cutoff}")
        unknown = set(self.elements) - set(KNOWN_ELEMENTS)
        if unknown or not self.elements:
            raise ValueError(f"elements: expected some of {list(KNOWN_ELEMENTS)}, found {unknown}")
        if not self.min_charge >= -100 or not self.max_charge <= 100:
            raise ValueError("charge range: expected -100 to 100 at most")
        if self.min_charge > self.max_charge:
            raise ValueError(f"charge range is empty: {self.min_charge} to {self.max_charge}")
        if not 0 <= self.charges_after <= self.n_interactions:
            raise ValueError(
                f"charges_after: expected 0 to {self.n_interactions}, found {self.charges_after}"
            )
        if not self.charges_after and (self.charge_feedback or self.coulomb):
            raise ValueError("charge_feedback and coulomb: expected charges_after of at least 1")

    def to_dict(self) -> dict:
        """For JSON."""
        return asdict(self) | {"elements": list(self.elements)}

    @classmethod
    def from_dict(cls, values: dict) -> "PaiNNConfig":
        """From JSON; a key that is not a field is a TypeError."""
        return cls(**(values | {"elements": tuple(values["elements"])}))


def radial_basis(distance: Tensor, n_rbf: int, cutoff: float) -> Tensor:
    """sin(n π d / d_cut) / d for n = 1 … n_rbf [n_edges, n_rbf] (paper, eq. 7 and section 3)."""
    n = torch.arange(1, n_rbf + 1, dtype=distance.dtype, device=distance.device)
    return torch.sin(distance[:, None] * (n * (math.pi / cutoff))) / distance[:, None]


def cosine_cutoff(distance: Tensor, cutoff: float) -> Tensor:
    """(cos(π d / d_cut) + 1) / 2: 1 at contact, 0 with zero slope at the cutoff [n_edges]."""
    return 0.5 * (torch.cos(distance * (math.pi / cutoff)) + 1.0)


class Message(nn.Module):
    """Gather from the neighbours: q_i += Σ_j …, mu_i += Σ_j … (paper, eq. 7 and 8)."""

    def __init__(self, n_features: int, n_rbf: int):
        super().__init__()
        self.phi = nn.Sequential(
            nn.Linear(n_features, n_features), nn.SiLU(), nn.Linear(n_features, 3 * n_features)
        )
        self.filter = nn.Linear(n_rbf, 3 * n_features)

    def forward(
        self,
        q: Tensor,
        mu: Tensor,
        rbf: Tensor,
        envelope: Tensor,
        unit: Tensor,
        i: Tensor,
        j: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """One step of messages.

        Args:
            q: Scalar features [n_atoms, n_features].
            mu: Vector features [n_atoms, 3, n_features].
            rbf: Radial basis [n_edges, n_rbf].
            envelope: Cutoff function [n_edges].
            unit: Unit vectors from i to j [n_edges, 3].
            i: Destinations [n_edges].
            j: Sources [n_edges].
        """
        W_ij = self.filter(rbf) * envelope[:, None]  # [n_edges, 3 n_features]
        x = self.phi(q)[j] * W_ij
        dq, x_unit, x_mu = x.chunk(3, dim=-1)  # each [n_edges, n_features]
        dmu = x_unit[:, None, :] * unit[:, :, None] + x_mu[:, None, :] * mu[j]
        return q.index_add(0, i, dq), mu.index_add(0, i, dmu)


class Update(nn.Module):
    """Mix scalars and vectors of each atom (paper, eq. 9 and 10)."""

    def __init__(self, n_features: int):
        super().__init__()
        self.uv = nn.Linear(n_features, 2 * n_features, bias=False)
        self.a = nn.Sequential(
            nn.Linear(2 * n_features, n_features), nn.SiLU(), nn.Linear(n_features, 3 * n_features)
        )

    def forward(self, q: Tensor, mu: Tensor) -> tuple[Tensor, Tensor]:
        """Scalars [n_atoms, n_features] and vectors [n_atoms, 3, n_features], updated."""
        U_mu, V_mu = self.uv(mu).chunk(2, dim=-1)  # each [n_atoms, 3, n_features]
        V_norm = (V_mu.square().sum(1) + NORM_FLOOR).sqrt()
        a_mu, a_q_mu, a_q = self.a(torch.cat([q, V_norm], dim=-1)).chunk(3, dim=-1)
        return q + a_q + a_q_mu * (U_mu * V_mu).sum(1), mu + a_mu[:, None, :] * U_mu


class PaiNN(nn.Module):
    """Energy of each molecule from elements, positions and total charge.

    Atomic energies are learnt relative to `reference_energy`, one number an element, and summed
    in float64. Forces are not the model's business: see `potential.py`.
    """

    atom_index: Tensor
    nuclear_charge: Tensor
    radius: Tensor
    reference_energy: Tensor
    energy_scale: Tensor

    def __init__(self, config: PaiNNConfig):
        super().__init__()
        self.config = config
        n_features, n_elements = config.n_features, len(config.elements)
        self.element = nn.Embedding(n_elements, n_features)
        self.charge = nn.Embedding(config.max_charge - config.min_charge + 1, n_features)
        self.message = nn.ModuleList(
            Message(n_features, config.n_rbf) for _ in range(config.n_interactions)
        )
        self.update = nn.ModuleList(Update(n_features) for _ in range(config.n_interactions))
        self.readout = nn.Sequential(
            nn.Linear(n_features, n_features // 2), nn.SiLU(), nn.Linear(n_features // 2, 1)
        )
        self.partial_charges: PartialCharges | None = None
        if config.charges_after:
            self.partial_charges = PartialCharges(
                n_features, feedback=config.charge_feedback, coulomb=config.coulomb
            )
        # Set from the training labels: eV an atom of each element, eV a unit of the readout.
        self.register_buffer("reference_energy", torch.zeros(n_elements, dtype=torch.float64))
        self.register_buffer("energy_scale", torch.ones(()))
        # Atomic number -> row of the tables here; -1 for elements that the model does not know.
        index = torch.full((128,), -1, dtype=torch.int64)
        index[list(config.elements)] = torch.arange(n_elements)
        self.register_buffer("atom_index", index, persistent=False)
        radii = torch.tensor([COVALENT_RADII[z] for z in config.elements])
        self.register_buffer("radius", radii, persistent=False)
        nuclear = torch.tensor(config.elements, dtype=radii.dtype)
        self.register_buffer("nuclear_charge", nuclear, persistent=False)

    def forward(
        self,
        numbers: Tensor,
        positions: Tensor,
        mol_idx: Tensor,
        charge: Tensor,
        i: Tensor,
        j: Tensor,
    ) -> Tensor:
        """Energy of each molecule in eV, float64 [n_mols].

        A molecule with a coordinate that is not finite, or with two atoms in one place, gets NaN.

        Args:
            numbers: Atomic numbers, all of them known to the model, int64 [n_atoms].
            positions: Coordinates in Å [n_atoms, 3].
            mol_idx: Molecule of each atom, int64 [n_atoms].
            charge: Total charges in e, int64 [n_mols].
            i: Destination of each pair within the cutoff, int64 [n_edges].
            j: Source of each pair, int64 [n_edges].
        """
        species = self.atom_index[numbers]
        atomic = self.atomic_energy(species, positions, charge[mol_idx], i, j, mol_idx)
        # An atom at NaN has no neighbours, hence an energy: finite, and wrong.
        atomic = torch.where(positions.isfinite().all(-1), atomic, torch.nan)
        # float64 from here on: a sum of a hundred terms must not lose the last kcal/mol.
        atomic = atomic.double() + self.reference_energy[species]
        return torch.zeros(len(charge), dtype=torch.float64, device=positions.device).index_add(
            0, mol_idx, atomic
        )

    def atomic_energy(
        self,
        species: Tensor,
        positions: Tensor,
        charge: Tensor,
        i: Tensor,
        j: Tensor,
        mol_idx: Tensor | None = None,
    ) -> Tensor:
        """Energy of each atom beyond its element's reference in eV [n_atoms].

        Args:
            species: Rows of the element table, int64 [n_atoms].
            positions: Coordinates in Å [n_atoms, 3].
            charge: Total charge of the molecule that each atom belongs to, int64 [n_atoms].
            i: Destinations, int64 [n_edges].
            j: Sources, int64 [n_edges].
            mol_idx: Molecule of each atom, int64 [n_atoms]; None if all are of one.
        """
        config = self.config
        if mol_idx is None:
            mol_idx = torch.zeros_like(species)
        r_ij = positions[j] - positions[i]
        distance = r_ij.square().sum(-1).sqrt()  # [n_edges]
        unit = r_ij / distance[:, None]
        seen, _ = seen_distance(distance)
        rbf = radial_basis(seen, config.n_rbf, config.cutoff)
        envelope = cosine_cutoff(seen, config.cutoff)

        q = self.element(species) + self.charge(charge - config.min_charge)
        mu = q.new_zeros(len(q), 3, config.n_features)
        electrostatic = torch.zeros_like(positions[:, 0])
        blocks = zip(self.message, self.update, strict=True)
        for k, (message, update) in enumerate(blocks, start=1):
            q, mu = message(q, mu, rbf, envelope, unit, i, j)
            q, mu = update(q, mu)
            if self.partial_charges is not None and k == config.charges_after:
                charges = self.partial_charges(q, charge, mol_idx)
                electrostatic = self.partial_charges.coulomb(charges, positions, mol_idx)
                q = self.partial_charges.fed_back(q, charges)
        # Under autocast the network speaks a shorter type; energies are summed in the positions'.
        atomic = self.readout(q).squeeze(-1).to(positions.dtype) * self.energy_scale

        nuclear, radius = self.nuclear_charge[species], self.radius[species]
        pair = zbl_repulsion(distance, nuclear[i], nuclear[j], radius[i] + radius[j])
        # Each pair is listed twice, so half of its energy goes to each of its atoms.
        return atomic.index_add(0, i, 0.5 * pair) + electrostatic


def zbl_repulsion(distance: Tensor, Z_i: Tensor, Z_j: Tensor, contact: Tensor) -> Tensor:
    """Screened nuclear repulsion of each pair in eV [n_edges]; falls to nothing beyond `contact`.

    J. F. Ziegler, J. P. Biersack, U. Littmark, "The Stopping and Range of Ions in Matter", 1985,
    times an envelope of x = distance / contact: 1 - 28 y⁶ + 48 y⁷ - 21 y⁸, which ends with two
    derivatives at y = 1, of y = 1 - w softplus((1 - x) / w), which is x well below contact, and
    reaches 1 nowhere. Its tail is below 1e-15 from x = 1.5 on.

    Args:
        distance: Å [n_edges].
        Z_i: Nuclear charges of the destinations [n_edges].
        Z_j: Nuclear charges of the sources [n_edges].
        contact: Sum of the two covalent radii in Å [n_edges].
    """
    screening_length = 0.8854 * BOHR_ANGSTROM / (Z_i**0.23 + Z_j**0.23)
    s = distance / screening_length
    phi = (
        0.18175 * torch.exp(-3.19980 * s)
        + 0.50986 * torch.exp(-0.94229 * s)
        + 0.28022 * torch.exp(-0.40290 * s)
        + 0.02817 * torch.exp(-0.20162 * s)
    )
    # 1 - y: the polynomial in y itself would lose what is left of it near contact.
    t = -REPULSION_WIDTH * nn.functional.logsigmoid((distance / contact - 1.0) / REPULSION_WIDTH)
    envelope = t**3 * (56.0 + t * (-210.0 + t * (336.0 + t * (-280.0 + t * (120.0 - 21.0 * t)))))
    return COULOMB_EV_ANGSTROM * Z_i * Z_j / distance * phi * envelope
