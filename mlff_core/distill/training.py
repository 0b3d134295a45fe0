"""The schedule, and one training step: a CUDA graph, or the same eagerly on a CPU."""

import copy
import math
from dataclasses import replace

import torch
from torch import Tensor

from mlff_core.distill.fused import Fused, compiled, edge_ops
from mlff_core.distill.losses import Weights, charge_losses, losses
from mlff_core.distill.metrics import Metrics
from mlff_core.distill.optimizer import Optimizer
from mlff_core.distill.pool import FixedBatch, LabelPool
from mlff_core.distill.ranks import Ranks
from mlff_core.distill.training_config import TrainingConfig
from mlff_core.models.painn import PaiNN
from mlff_core.ops.program import EdgeOps, energy_forces_and_charges
from mlff_core.ops.triton.capture import recording


def schedule(
    progress: float, step: int, warmup_steps: int, final: float = 0.0, decay: str = "cosine"
) -> float:
    """Share of the highest learning rate: a linear warm-up in steps, and a decay in time (0 to 1).

    See `TrainingConfig.decay`.
    """
    warm = min(1.0, (step + 1) / max(1, warmup_steps))
    left = 1.0 - min(1.0, max(0.0, progress))
    if decay == "cosine":
        left = 0.5 * (1.0 - math.cos(math.pi * left))
    return warm * (final + (1.0 - final) * left)


def _look_up_by_rows(embedding: torch.nn.Embedding) -> None:
    """Make an embedding's backward a plain addition of rows, which a CUDA graph can hold."""
    embedding.forward = lambda index: embedding.weight.index_select(0, index)  # type: ignore[method-assign,assignment]


def _what_charges_do(student: PaiNN) -> list[Tensor]:
    """The weights that `TrainingConfig.charge_rate` is about."""
    read = student.partial_charges
    return [] if read is None else [p for p in (read.feedback, read.strength) if p is not None]


class Trainer:
    """A student in training on a pool of labels.

    Where several processes train together, each draws batches from a pool of its own, and all take
    the same step, along the mean of their gradients.

    Attributes:
        student: The network being trained.
        averaged: Its exponential moving average, which is what is evaluated and shipped.
        step_count: Steps done.
        metrics: Errors on the training batches.
    """

    def __init__(
        self, student: PaiNN, pool: LabelPool, config: TrainingConfig, ranks: Ranks | None = None
    ):
        device = pool.energy.device
        self.student, self.pool, self.config = student.to(device), pool, config
        self.ranks = ranks or Ranks()
        if student.config.charges_after and (pool.charges is None or not config.charge_weight > 0):
            raise ValueError(
                "a student with partial charges learns them: expected labels with charges and a "
                f"charge_weight above 0, found {config.charge_weight}"
            )
        self.student.reference_energy = self.student.reference_energy.double()
        self.averaged = copy.deepcopy(self.student).requires_grad_(False)
        _look_up_by_rows(self.student.element)
        _look_up_by_rows(self.student.charge)
        self.parameters: list[Tensor] = list(self.student.parameters())
        self.averages: list[Tensor] = list(self.averaged.parameters())
        self.optimizer = Optimizer(
            self.student,
            student.config.n_features,
            betas=(config.beta1, config.beta2),
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            use_muon=config.optimizer == "muon",
            faster=_what_charges_do(self.student),
        )
        self.optimizer.times_faster = config.charge_rate
        compiles = config.compile and device.type == "cuda"
        self.fused = compiled() if compiles else Fused()
        self.weights = Weights.first(config, device)
        self.gradient_length = torch.zeros((), device=device)
        self.left_out = torch.zeros((), dtype=torch.int64, device=device)
        self.skipped = torch.zeros((), dtype=torch.int64, device=device)
        self.metrics = Metrics(device)
        self.step_count = 0
        n_weights = sum(p.numel() for p in self.parameters)
        self._gradient = torch.zeros(n_weights, device=device)
        self._total_left = 1.0
        self._graphs: tuple[torch.cuda.CUDAGraph, torch.cuda.CUDAGraph] | None = None

    @property
    def start_left(self) -> float:
        """Share of the averaged weights that is still what training began with.

        A short stage needs a shorter memory than a long one, most of all where weights began at
        random: charges were off five times as much with a share of 18 % as without.
        """
        return float(self.config.ema_decay**self.step_count)

    def _find_gradient(self) -> None:
        """That of one batch, into one long vector."""
        config = self.config
        cutoff = self.student.config.cutoff
        batch = self.pool.draw(config.n_mols, config.n_atoms, config.n_edges, cutoff)
        loss = self.loss(batch, edge_ops(batch.row, batch.reverse), self.metrics)
        gradients = torch.autograd.grad(loss, self.parameters)
        torch.cat([gradient.flatten() for gradient in gradients], out=self._gradient)
        self.left_out += batch.left_out

    @torch.no_grad()
    def _update(self) -> None:
        """Change the weights along the gradient."""
        config = self.config
        length = self._gradient.norm()
        usual = torch.where(self.gradient_length > 0, self.gradient_length, length)
        scale = (config.max_gradient * usual / length).clamp(max=1.0)
        # A step that is not finite is left out, and counted.
        finite = length.isfinite()
        self.skipped += (~finite).long()
        gradient = torch.where(finite, self._gradient * scale, 0.0)
        clipped = torch.minimum(length, config.max_gradient * usual)
        self.gradient_length.copy_(
            torch.where(finite, torch.lerp(usual, clipped, 0.01), self.gradient_length)
        )
        parts = gradient.split([p.numel() for p in self.parameters])
        self.optimizer.step(
            [part.view_as(p) for part, p in zip(parts, self.parameters, strict=True)]
        )
        torch._foreach_lerp_(self.averages, self.parameters, 1.0 - config.ema_decay)

    def loss(self, batch: FixedBatch, ops: EdgeOps, metrics: Metrics | None = None) -> Tensor:
        """The loss of a batch, differentiable by the weights."""
        fused = self.fused
        energy, forces, charges = energy_forces_and_charges(
            self.student,
            batch.numbers,
            batch.positions,
            batch.mol_idx,
            batch.charge,
            batch.i,
            batch.j,
            ops if fused.repulsion is None else replace(ops, repulsion=fused.repulsion),
            fused.atom_ops,
            batch.layout,
            fused.charge_ops,
            fused.edge_geometry,
        )
        loss = losses(energy[:-1], forces, batch, self.weights, self.config, metrics)
        if charges is None:
            return loss
        return loss + charge_losses(charges, batch, self.weights, self.config, metrics)

    def _step(self) -> None:
        self._find_gradient()
        self.ranks.mean_(self._gradient)
        self._update()

    def capture(self) -> None:
        """Record the step as two CUDA graphs, after a few steps that count like all others.

        The mean over the processes lies between the two.
        """
        torch.set_float32_matmul_precision("high")
        # Filter gradients are sums over half a million pairs: only the result may be rounded.
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self._step()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        self.step_count += 3
        graphs = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        parts = self._find_gradient, self._update
        for graph, part in zip(graphs, parts, strict=True):
            # NCCL's watchdog asks for events from a thread of its own meanwhile.
            with recording(graph):
                part()
        self._graphs = graphs
        torch.set_float32_matmul_precision("highest")

    def step(self, progress: float) -> None:
        """One step at a point of the schedule, 0 to 1; does not wait for the device."""
        config = self.config
        way = config.begins + (config.ends - config.begins) * min(1.0, max(0.0, progress))
        share = schedule(way, self.step_count, config.warmup_steps, config.final_rate, config.decay)
        self.weights.set(config, way)
        self.optimizer.set_rate(config.learning_rate * share)
        if self._graphs is None:
            self._step()
        else:
            self._graphs[0].replay()
            self.ranks.mean_(self._gradient)
            self._graphs[1].replay()
        if config.total_fades:
            self._fade(progress)
        self.step_count += 1

    @torch.no_grad()
    def _fade(self, progress: float) -> None:
        """Bring what the total charge adds to each atom nearer to what it adds where it is zero."""
        left = max(0.0, 1.0 - progress / self.config.total_fades)
        rows = self.student.charge.weight
        uncharged = rows[-self.student.config.min_charge].clone()
        rows.lerp_(uncharged.expand_as(rows), 1.0 - left / self._total_left)
        # All that is gone cannot be shared out once more; the next step begins from the same.
        self._total_left = left or 1.0
        if not left:
            # The mean has what each step did to these rows before it was undone.
            mean = self.averaged.charge.weight
            mean.copy_(mean[-self.student.config.min_charge].clone().expand_as(mean))

    def size_batches(self, spare: float = 1.06) -> TrainingConfig:
        """Fix the size of the batches from the molecules that are in the pool.

        Args:
            spare: Room, relative to the mean: sums over 128 molecules vary by 2 to 3 %, and of what
                does not fit one molecule or two are left out.
        """
        config = self.config
        filled = int(self.pool.n_filled)
        rows = torch.arange(min(filled, 2048), device=self.pool.numbers.device)
        numbers = self.pool.numbers[rows].long()
        x = self.pool.positions[rows, 0]
        real = numbers > 0
        n_real = int(real.sum())
        near = torch.cdist(x, x) < self.student.config.cutoff
        # Every atom is near itself, which makes no pair.
        n_pairs = int((near & real[:, :, None] & real[:, None, :]).sum()) - n_real
        per_atoms, per_edges = n_real / len(rows), n_pairs / len(rows)
        n_atoms = -(-int(config.n_mols * per_atoms * spare + 256) // 256) * 256
        n_edges = -(-int(config.n_mols * per_edges * spare * 1.01) // 1024) * 1024
        self.config = replace(config, n_atoms=n_atoms, n_edges=n_edges)
        return self.config
