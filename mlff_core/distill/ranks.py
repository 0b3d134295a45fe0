"""The processes that train one student together, one on each device."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor


class Ranks:
    """This process among those that train together; by itself unless `launch` made it.

    Attributes:
        rank: Which one this is, from 0; the first speaks for all and writes the files.
        size: How many there are.
    """

    def __init__(self, rank: int = 0, size: int = 1):
        self.rank, self.size = rank, size

    def mean_(self, tensor: Tensor) -> None:
        """Replace a tensor by its mean over all processes."""
        if self.size > 1:
            dist.all_reduce(tensor)
            tensor /= self.size

    def agree(self, *values: float) -> list[float]:
        """What the first process says; the others' values are not looked at."""
        if self.size == 1:
            return list(values)
        shared = torch.tensor(values, dtype=torch.float64)
        dist.broadcast(shared, src=0)
        return shared.tolist()

    def agree_(self, tensor: Tensor) -> None:
        """Replace a tensor by that of the first process."""
        if self.size > 1:
            dist.broadcast(tensor, src=0)

    def all(self, value: bool) -> bool:
        """Whether it is so in every process."""
        if self.size == 1:
            return value
        so = torch.tensor([value], dtype=torch.uint8)
        dist.all_reduce(so, dist.ReduceOp.MIN)
        return bool(so)

    def gather(self, value: Any) -> list[Any]:
        """What each process gives, in their order, in all of them."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values


def launch(size: int, function: Callable[..., None], *arguments: Any, cuda: bool) -> None:
    """Call function(ranks, *arguments) in `size` new processes, and wait for all of them.

    Args:
        size: Number of processes.
        function: Importable by name; told which process it is in by a `Ranks`.
        arguments: Whatever can be sent to another process.
        cuda: Whether each process has the GPU of its number, else all are on the CPU.

    Raises:
        Exception: One of the processes failed; the others are stopped.
    """
    with tempfile.TemporaryDirectory() as folder:
        meeting = (Path(folder) / "meeting").as_uri()
        mp.spawn(_begin, (size, meeting, cuda, function, arguments), nprocs=size)


def _begin(
    rank: int,
    size: int,
    meeting: str,
    cuda: bool,
    function: Callable[..., None],
    arguments: tuple[Any, ...],
) -> None:
    if cuda:
        torch.cuda.set_device(rank)
    backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
    dist.init_process_group(backend, init_method=meeting, rank=rank, world_size=size)
    try:
        function(Ranks(rank, size), *arguments)
    finally:
        dist.destroy_process_group()
