"""Conformers of many molecules, embedded at once on a device, checked, and tried again."""

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlff_core.chem.constraints import EmbeddingConstraints
from mlff_core.embedding import plain
from mlff_core.embedding.checks import Cause, causes
from mlff_core.embedding.distances import settled
from mlff_core.embedding.packing import SIZE_CLASSES, Packed, pack, size_class
from mlff_core.embedding.schedule import schedule
from mlff_core.embedding.smoothing import smoothed

#: Tries a conformer has, each from other coordinates.
ATTEMPTS: Final = 6
#: Pairs of atoms, padding counted, of the molecules and of the conformers that are worked on at
#: once, on a card (about 2 and 6 GB) and on a CPU.
PAIRS_AT_ONCE: Final = {"cuda": (1 << 28, 1 << 28), "cpu": (1 << 20, 1 << 19)}

Minimise = Callable[[Tensor, Packed, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Embedded:
    """What came of the molecules of a call.

    Attributes:
        positions: Å, float32 [n_conformers, n_atoms, 3] of each molecule; rows of
            conformers that were not accepted mean nothing.
        cause: Why a conformer was not accepted, int8 [n_conformers] of each molecule, a `Cause`;
            0 if it was.
        attempts: Tries that each took, int8 [n_conformers] of each molecule.
        counts: Tries that were not accepted, by cause, those that were made good included.
    """

    positions: list[NDArray[np.float32]]
    cause: list[NDArray[np.int8]]
    attempts: list[NDArray[np.int8]]
    counts: Counter[Cause]


def embed_molecules(
    constraints: Sequence[EmbeddingConstraints],
    n_conformers: int | Sequence[int],
    seeds: Sequence[int],
    device: torch.device | str = "cpu",
    *,
    numbers: Sequence[NDArray[np.integer]] | None = None,
    attempts: int | None = None,
    steps: Tensor | None = None,
    minimise: Minimise | None = None,
) -> Embedded:
    """Embed conformers of many molecules of any sizes.

    A conformer depends on its molecule's constraints, its molecule's seed and its number alone,
    not on how many are asked for nor on the other molecules of the call.

    Args:
        constraints: One a molecule.
        n_conformers: Of every molecule, or one number for all.
        seeds: 0 to 2^63 - 1, one a molecule.
        device: Where it is computed: with Triton on CUDA, with plain PyTorch elsewhere.
        numbers: Atomic numbers of each molecule: bonds and angles are then the student's own, see
            `distances`; None to leave them at RDKit's bounds.
        attempts: Tries that each conformer has; None for ATTEMPTS.
        steps: See `schedule.schedule`; None for its own.
        minimise: Other than the device's own, see `plain.minimise`.

    Returns:
        One entry a molecule. What goes wrong with a molecule is its cause and leaves the others
        alone.

    Raises:
        ValueError: The lists are of different lengths, or a number is out of its range.
    """
    n_molecules = len(constraints)
    wanted = [n_conformers] * n_molecules if isinstance(n_conformers, int) else [*n_conformers]
    if len(wanted) != n_molecules or len(seeds) != n_molecules:
        raise ValueError(
            f"expected {n_molecules} numbers of conformers and seeds, "
            f"found {len(wanted)} and {len(seeds)}"
        )
    if any(n < 0 for n in wanted):
        raise ValueError(f"n_conformers: expected at least 0, found {min(wanted)}")
    attempts = ATTEMPTS if attempts is None else attempts
    if attempts < 1:
        raise ValueError(f"attempts: expected at least 1, found {attempts}")
    if numbers is not None and len(numbers) != n_molecules:
        raise ValueError(f"expected {n_molecules} lists of numbers, found {len(numbers)}")
    device = torch.device(device)
    work = _Work(
        constraints,
        wanted,
        seeds,
        numbers,
        device,
        attempts,
        (schedule() if steps is None else steps).to(device),
        minimise or _own_minimise(device),
    )
    pieces = _pieces(constraints, wanted, device, work)
    if device.type == "cuda" and 1 < len(pieces) <= len(SIZE_CLASSES):
        _side_by_side(work, pieces)
    else:
        for piece in pieces:
            work.embed(piece)
    return Embedded(work.positions, work.cause, work.tries, +work.counts)


def _side_by_side(work: "_Work", pieces: Sequence[Sequence[int]]) -> None:
    """Embed pieces on streams of their own: one alone leaves most of a card idle, and takes as long
    as its slowest conformer."""
    caller = torch.cuda.current_stream(work.device)

    def embed(piece: Sequence[int]) -> None:
        stream = torch.cuda.Stream(work.device)
        stream.wait_stream(caller)
        with torch.cuda.stream(stream):
            work.embed(piece)

    with ThreadPoolExecutor(len(pieces)) as threads:
        list(threads.map(embed, pieces))


def _sleep_until_done(device: torch.device) -> None:
    """Wait for what was launched. To wait otherwise is to keep a core busy, which others need."""
    if device.type == "cuda":
        done = torch.cuda.Event(blocking=True)
        done.record()
        done.synchronize()


def _own_minimise(device: torch.device) -> Minimise:
    if device.type != "cuda":
        return plain.minimise
    from mlff_core.embedding.minimise_triton import minimise  # Triton is there where CUDA is

    return minimise


class _Work:
    """The molecules of a call and what has become of them."""

    def __init__(
        self,
        constraints: Sequence[EmbeddingConstraints],
        wanted: Sequence[int],
        seeds: Sequence[int],
        numbers: Sequence[NDArray[np.integer]] | None,
        device: torch.device,
        attempts: int,
        steps: Tensor,
        minimise: Minimise,
    ) -> None:
        self.constraints, self.wanted, self.seeds = constraints, wanted, seeds
        self.device, self.attempts, self.steps = device, attempts, steps
        self.numbers, self.minimise = numbers, minimise
        self.positions = [np.empty((n, 0, 3), np.float32) for n in wanted]
        self.cause = [np.zeros(n, np.int8) for n in wanted]
        self.tries = [np.zeros(n, np.int8) for n in wanted]
        self.counts: Counter[Cause] = Counter()
        self._counting = threading.Lock()

    def refuse(self, molecule: int, cause: Cause) -> None:
        """Give up on a molecule as a whole."""
        n = self.wanted[molecule], self.constraints[molecule].n_atoms
        self.positions[molecule] = np.zeros((*n, 3), np.float32)
        self.cause[molecule][:] = cause
        with self._counting:
            self.counts[cause] += n[0]

    def embed(self, piece: Sequence[int]) -> None:
        """Embed all conformers of some molecules of one size class; smaller pieces if need be."""
        try:
            x, found, tries = self._embed(piece)
        except torch.OutOfMemoryError:
            found = None
        if found is None:  # outside the except clause, whose traceback keeps tensors alive
            torch.cuda.empty_cache()
            if len(piece) == 1:
                self.refuse(piece[0], Cause.OUT_OF_MEMORY)
                return
            middle = len(piece) // 2
            self.embed(piece[:middle])
            self.embed(piece[middle:])
            return
        first = 0
        for k in piece:
            last, n_atoms = first + self.wanted[k], self.constraints[k].n_atoms
            self.positions[k] = x[first:last, :n_atoms]
            self.cause[k], self.tries[k] = found[first:last], tries[first:last]
            first = last

    def _embed(
        self, piece: Sequence[int]
    ) -> tuple[NDArray[np.float32], NDArray[np.int8], NDArray[np.int8]]:
        """Positions [n, size, 3], causes [n] and tries [n] of all conformers of a piece."""
        members = smoothed([self.constraints[k] for k in piece], self.device)
        if self.numbers is not None:
            bounds = settled(members, [self.numbers[k] for k in piece])
            members = [replace(m, bounds=b) for m, b in zip(members, bounds, strict=True)]
        packed = pack(members, self.device)
        wanted = np.array([self.wanted[k] for k in piece])
        own = np.repeat(np.arange(len(piece)), wanted)
        molecule = torch.from_numpy(own).to(self.device)
        first = np.cumsum(wanted) - wanted
        number = torch.from_numpy(np.arange(len(own)) - first[own]).to(self.device)
        seeds = np.array([self.seeds[k] for k in piece], np.int64)
        seed = torch.from_numpy(seeds[own]).to(self.device)
        x = torch.zeros(len(own), 3, packed.size, device=self.device)
        found = torch.zeros(len(own), dtype=torch.int8, device=self.device)
        tries = torch.zeros(len(own), dtype=torch.int8, device=self.device)
        sound = packed.sound[molecule]
        found.masked_fill_(~sound, int(Cause.CONTRADICTION))
        refused = Counter({Cause.CONTRADICTION: int((~sound).sum())})
        everyone = torch.nonzero(sound)[:, 0]
        # The few that fail have all their further tries at once: a launch takes its time however
        # few conformers are in it.
        for tried, more in ((0, 1), (1, self.attempts - 1)):
            waiting = everyone[(found[everyone] != 0) | (tries[everyone] == 0)]
            if not len(waiting) or not more:
                break
            which = torch.repeat_interleave(waiting, more)
            attempt = tried + torch.arange(more, device=self.device).repeat(len(waiting))
            args = packed, molecule[which]
            start = plain.starting_coordinates(*args, seed[which], number[which], attempt)
            now = _centred(self.minimise(start, *args, self.steps)[:, :3], *args)
            _sleep_until_done(self.device)
            cause = causes(now, *args).reshape(-1, more)
            place = torch.arange(more, device=self.device)
            accepted = torch.where(cause == 0, place, more).amin(1)  # the first of them, or none
            taken = accepted.clamp(max=more - 1)[:, None]
            found[waiting] = cause.gather(1, taken)[:, 0]
            x[waiting] = now[torch.arange(len(waiting), device=self.device) * more + taken[:, 0]]
            tries[waiting] = (tried + taken[:, 0] + 1).to(torch.int8)
            kinds, counts = torch.unique(cause[place < accepted[:, None]], return_counts=True)
            for kind, n in zip(kinds.tolist(), counts.tolist(), strict=True):
                refused[Cause(kind)] += n
        with self._counting:
            self.counts.update(refused)
        return x.transpose(1, 2).cpu().numpy(), found.cpu().numpy(), tries.cpu().numpy()


def _centred(x: Tensor, packed: Packed, molecule: Tensor) -> Tensor:
    """Positions with their mean at the origin, padding at zero."""
    n_atoms = packed.n_atoms[molecule][:, None]
    real = (torch.arange(packed.size, device=x.device) < n_atoms)[:, None]
    x = torch.where(real, x, 0.0)
    return torch.where(real, x - x.sum(2, keepdim=True) / n_atoms[..., None], 0.0)


def _pieces(
    constraints: Sequence[EmbeddingConstraints],
    wanted: Sequence[int],
    device: torch.device,
    work: _Work,
) -> list[list[int]]:
    """Molecules of one size class in pieces that fit into memory; refuses those that cannot be."""
    by_class: dict[int, list[int]] = {size: [] for size in SIZE_CLASSES}
    for k, molecule in enumerate(constraints):
        size = size_class(molecule.n_atoms)
        if size is None:
            work.refuse(k, Cause.TOO_LARGE)
        elif not molecule.n_atoms:
            work.refuse(k, Cause.CONTRADICTION)
        elif wanted[k]:
            by_class[size].append(k)
        else:
            work.refuse(k, Cause.NONE)
    most_of_molecules, most_of_conformers = PAIRS_AT_ONCE[device.type]
    pieces: list[list[int]] = []
    for size, members in by_class.items():
        n_molecules = n_conformers = 0
        for k in members:
            n_molecules += size * size
            n_conformers += wanted[k] * size * size
            full = n_molecules > most_of_molecules or n_conformers > most_of_conformers
            if full or k == members[0]:
                pieces.append([])
                n_molecules, n_conformers = size * size, wanted[k] * size * size
            pieces[-1].append(k)
    return pieces
