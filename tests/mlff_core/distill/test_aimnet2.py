"""The networks in large operations say what their TorchScript says."""

import hashlib
import logging
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mlff_core.distill.teacher import Teacher, default_cache

# PyTorch would like TorchScript to go; the teacher comes in no other form.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

N_A, N_G, N_H, N_Z = 4, 6, 3, 18


class Holder(nn.Module):
    """Tensors and numbers under the names that the teacher's file has for them."""

    def __init__(self, **values: Tensor | float):
        super().__init__()
        for name, value in values.items():
            if isinstance(value, Tensor):
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)


class Aev(Holder):
    """Distances and basis."""

    def __init__(self) -> None:
        shifts = torch.linspace(0.8, 4.7, N_G)
        super().__init__(shifts_s=shifts, eta_s=torch.tensor(2.0), rc_s=torch.tensor(5.0))
        self._dual_basis = False


class Conv(nn.Module):
    """Sums over neighbours, and squared lengths of vectors, channel by channel."""

    def __init__(self, n_channels: int):
        super().__init__()
        self.register_buffer("agh", torch.randn(n_channels, N_G, N_H) / 3)

    def forward(self, a: Tensor, gs: Tensor, gv: Tensor) -> Tensor:
        sums = torch.einsum("bnmg,bmag->bnag", gs, a)
        vectors = torch.einsum("bnmgd,bmag,agh->bnahd", gv, a, self.agh)
        return torch.cat([sums.flatten(2), vectors.square().sum(-1).flatten(2)], -1)


def perceptron(*widths: int, bent: bool) -> nn.Sequential:
    """Linear layers with GELUs between them, and one at the end if `bent`."""
    layers: list[nn.Module] = []
    for k in range(len(widths) - 1):
        layers += [nn.Linear(widths[k], widths[k + 1]), nn.GELU()]
    return nn.Sequential(*(layers if bent else layers[:-1]))


class Outputs(nn.Module):
    """What turns features and charges into an energy."""

    def __init__(self) -> None:
        super().__init__()
        self.energy_mlp = nn.Module()
        self.energy_mlp.mlp = perceptron(8, 5, 1, bent=False)
        self.atomic_shift = nn.Module()
        self.atomic_shift.shifts = nn.Embedding(N_Z, 1)
        self.lrcoulomb = Holder(rc=torch.tensor(4.6))
        generator = torch.Generator().manual_seed(3)
        # C6 of each pair of reference systems, and the coordination of either system.
        reference = 3 * torch.rand(N_Z, 5, generator=generator)
        c6 = 9 * torch.rand(N_Z, N_Z, 5, 5, generator=generator)
        of_i = reference[:, None, :, None].expand_as(c6)
        self.d3bj = Holder(
            c6ab=torch.stack([c6, of_i, of_i.permute(1, 0, 3, 2)], -1),
            r4r2=1 + torch.rand(N_Z, generator=generator),
            rcov=1.5 + torch.rand(N_Z, generator=generator),
            a1=0.566, a2=3.128, s6=1.0, s8=0.3908, k1=-16.0, k3=-4.0,
        )  # fmt: skip


class Network(nn.Module):
    """AIMNet2 as its formulas read, with random weights."""

    def __init__(self) -> None:
        super().__init__()
        self.d2features = True
        self.shape = [N_A, N_G]
        self.aev = Aev()
        self.afv = nn.Embedding(N_Z, N_A * N_G)
        self.conv_a, self.conv_q = Conv(N_A), Conv(1)
        own = N_A * N_G + N_A * (N_G + N_H)
        more = own + 1 + N_G + N_H
        step = 2 + N_A * N_G
        self.mlps = nn.ModuleList(
            [
                perceptron(own, 9, step, bent=False),
                perceptron(more, 9, step, bent=True),
                perceptron(more, 9, 8, bent=True),
            ]
        )
        self.outputs = Outputs()

    def forward(self, coord: Tensor, numbers: Tensor, charge: Tensor) -> Tensor:
        padding = numbers == 0
        masked = padding.unsqueeze(1) | padding.unsqueeze(2)
        masked = masked | torch.eye(numbers.shape[1], dtype=torch.bool).unsqueeze(0)
        r = coord.unsqueeze(1) - coord.unsqueeze(2)
        d = r.square().sum(-1).masked_fill(masked, 25.0).sqrt()
        fc = 0.5 * torch.cos(math.pi * (d / 5.0).clamp(0, 1)) + 0.5
        gs = torch.exp(-self.aev.eta_s * (d.unsqueeze(-1) - self.aev.shifts_s).square())
        gs = gs * fc.unsqueeze(-1)
        gv = gs.unsqueeze(-1) * (r / d.unsqueeze(-1)).unsqueeze(-2)
        a = self.afv(numbers).unflatten(-1, self.shape)
        q = torch.zeros_like(d[:, :, 0])
        out = torch.zeros_like(a)
        for k, layers in enumerate(self.mlps):
            row = [a.flatten(2), self.conv_a(a, gs, gv)]
            if k > 0:
                spread = q.unsqueeze(-1).unsqueeze(-1).expand(-1, -1, 1, self.shape[1])
                row += [q.unsqueeze(-1), self.conv_q(spread, gs, gv)]
            out = layers(torch.cat(row, -1)).masked_fill(padding.unsqueeze(-1), 0.0)
            if k < 2:
                q = q + out[:, :, 0]
                f = out[:, :, 1].square()
                missing = charge.unsqueeze(-1) - q.sum(-1, keepdim=True)
                q = q + f * missing / (f.sum(-1, keepdim=True) + 1e-6)
                a = a + out[:, :, 2:].unflatten(-1, self.shape)
        atomic = self.outputs.energy_mlp.mlp(out).masked_fill(padding.unsqueeze(-1), 0.0)
        energy = (atomic + self.outputs.atomic_shift.shifts(numbers)).squeeze(-1).double().sum(-1)
        short = (d / self.outputs.lrcoulomb.rc).clamp(0, 0.999999)
        short = torch.exp(-1 / (1 - short.square())) / math.exp(-1)
        pairs = (1 - short) * 7.1998226 * q.unsqueeze(1) * q.unsqueeze(2) / d
        energy = energy + pairs.masked_fill(masked, 0.0).double().sum(-1).sum(-1)
        return energy + self.dispersion(d * 1.8897261258369282, numbers, masked)

    def dispersion(self, d: Tensor, numbers: Tensor, masked: Tensor) -> Tensor:
        d3 = self.outputs.d3bj
        d = d.masked_fill(masked, 10.0)
        radii = d3.rcov[numbers].unsqueeze(1) + d3.rcov[numbers].unsqueeze(2)
        contact = 1 / (1 + torch.exp(-16.0 * (radii / d - 1)))
        cn = contact.masked_fill(masked, 0.0).sum(-1)[:, :, None, None]
        reference, of_i, of_j = d3.c6ab[numbers.unsqueeze(2), numbers.unsqueeze(1)].unbind(-1)
        w = torch.exp(-4.0 * ((cn.unsqueeze(2) - of_i) ** 2 + (cn.unsqueeze(1) - of_j) ** 2))
        total = w.flatten(3).sum(-1)
        c6 = torch.where(total < 1e-5, 0.0, (reference * w).flatten(3).sum(-1) / total)
        rr = 3 * d3.r4r2[numbers].unsqueeze(1) * d3.r4r2[numbers].unsqueeze(2)
        r0 = 0.566 * rr.sqrt() + 3.128
        e = c6 * (1 / (d**6 + r0**6) + 0.3908 * rr / (d**8 + r0**8))
        return -13.605693012183622 * e.masked_fill(masked, 0.0).double().sum(-1).sum(-1)


class Forces(nn.Module):
    """A member, as the file wraps it."""

    def __init__(self, network: Network):
        super().__init__()
        self.module = network

    def forward(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        coord = data["coord"].requires_grad_(True)
        energy = self.module(coord, data["numbers"], data["charge"])
        (gradient,) = torch.autograd.grad([energy.sum()], [coord])
        assert gradient is not None
        return {"energy": energy, "forces": -gradient}


class Ensemble(nn.Module):
    """Members under the name that the file has for them."""

    def __init__(self, *members: Network):
        super().__init__()
        self.models = nn.ModuleList([Forces(member) for member in members])

    def forward(self, data: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.models[0](data)


def save(path: Path, *members: Network) -> str:
    """Write an ensemble; returns its sha256."""
    torch.jit.script(Ensemble(*members)).save(str(path))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def molecules() -> tuple[Tensor, Tensor, Tensor]:
    """A chain, a charged pair out of each other's reach, a lone ion, and one without padding."""
    generator = torch.Generator().manual_seed(8)
    numbers = torch.zeros(4, 9, dtype=torch.int64)
    numbers[0, :6] = torch.tensor([6, 7, 8, 1, 1, 16])
    numbers[1, :2] = torch.tensor([7, 1])
    numbers[2, 0] = 17
    numbers[3] = 6
    steps = torch.tensor([1.1, 0.4, 0.2]) * torch.arange(9.0)[:, None]
    positions = steps + 0.3 * torch.rand(4, 9, 3, generator=generator)
    positions[1, 1, 0] += 8.0
    return numbers, positions, torch.tensor([0, 1, -1, 2])


def assert_the_same(teacher: Teacher, scripted: Teacher) -> None:
    """One member and the mean, of both."""
    assert teacher.networks is not None
    assert scripted.networks is None
    pairs = [
        (one(*arguments), other(*arguments))
        for arguments, one, other in (
            (molecules(), teacher, scripted),
            ((1, *molecules()), teacher.member, scripted.member),
        )
    ]
    for found, expected in pairs:
        # There the energies of free atoms, some hundred eV each, are added in float32.
        torch.testing.assert_close(found.energy, expected.energy, rtol=1e-6, atol=1e-4)
        torch.testing.assert_close(found.forces, expected.forces, rtol=1e-4, atol=2e-5)
        torch.testing.assert_close(found.force_spread, expected.force_spread, rtol=1e-3, atol=2e-5)
        assert (found.forces[molecules()[0] == 0] == 0).all()
        assert expected.forces[0].abs().max() > 0.01


def test_labels_are_those_of_the_torchscript(tmp_path: Path):
    torch.manual_seed(5)
    path = tmp_path / "ensemble.jpt"
    sha256 = save(path, Network(), Network(), Network())
    assert_the_same(
        Teacher(path, "cpu", sha256=sha256),
        Teacher(path, "cpu", sha256=sha256, scripted=True),
    )


def test_charges_add_up_to_the_total_charge(tmp_path: Path):
    torch.manual_seed(5)
    path = tmp_path / "ensemble.jpt"
    networks = Teacher(path, "cpu", sha256=save(path, Network(), Network())).networks
    assert networks is not None
    numbers, positions, charge = molecules()
    each = networks.charges_of_members(numbers, positions, charge)
    assert len(each) == 2
    assert not torch.allclose(each[0], each[1], atol=1e-3)
    found = networks.charges(numbers, positions, charge)
    torch.testing.assert_close(each.mean(0), found)
    # What is missing is shared by weights with a floor of 1e-6, which a lone ion may be near.
    torch.testing.assert_close(found.sum(1), charge.float(), rtol=0, atol=0.02)
    assert (found[numbers == 0] == 0).all()
    assert found[0].std() > 0.01
    # The mean over the members of those that come with their energies.
    label = Teacher(path, "cpu", sha256=hashlib.sha256(path.read_bytes()).hexdigest())(
        numbers, positions, charge
    )
    torch.testing.assert_close(label.charges, found, rtol=0, atol=1e-6)


@pytest.mark.skipif(
    not (default_cache() / "aimnet2_wb97m_ens_f.jpt").exists(),
    reason="needs the teacher (datasets/fetch_teacher.py)",
)
def test_labels_are_those_of_the_teachers_own_torchscript():
    path = default_cache() / "aimnet2_wb97m_ens_f.jpt"
    assert_the_same(Teacher(path, "cpu"), Teacher(path, "cpu", scripted=True))


def test_networks_that_differ_in_their_basis_label_by_themselves(tmp_path: Path):
    torch.manual_seed(6)
    odd = Network()
    odd.aev.shifts_s += 0.1
    path = tmp_path / "ensemble.jpt"
    teacher = Teacher(path, "cpu", sha256=save(path, Network(), odd))
    assert teacher.networks is None
    assert teacher(*molecules()).energy.isfinite().all()


def test_a_network_that_says_something_else_labels_by_itself(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    torch.manual_seed(7)

    class Other(Network):
        def dispersion(self, d: Tensor, numbers: Tensor, masked: Tensor) -> Tensor:
            return d.masked_fill(masked, 0.0).double().sum(-1).sum(-1)

    path = tmp_path / "ensemble.jpt"
    sha256 = save(path, Other())
    with caplog.at_level(logging.WARNING):
        teacher = Teacher(path, "cpu", sha256=sha256)
    assert teacher.networks is None
    assert "differs from the TorchScript" in caplog.text
