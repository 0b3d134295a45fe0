"""Loops over atoms compiled by Numba: each twice, and called with the threads that PyTorch has."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

import numba
import numpy as np
import torch
from numba import njit
from numba.core.compiler import Compiler
from torch import Tensor

# To ask Numba starts its threads, and where these are OpenMP's, PyTorch's number changes with them.
_torch_threads = torch.get_num_threads()
#: Threads that Numba has started, an upper bound on what a call may use.
_MOST_THREADS = numba.get_num_threads()
torch.set_num_threads(_torch_threads)

#: Numba's fallback threading layer must not be entered by two threads at once.
_PARALLEL = threading.Lock()

# Reassociation lets the sums over features use vector registers; NaN and infinity keep their
# meaning, because a molecule that has them must show them.
FASTMATH = {"reassoc", "contract", "nsz", "arcp"}


class Unaliased(Compiler):
    """Compiles a function of which no two arguments share memory.

    Numba says so of the body of a parallel loop, but of no other function, and without it LLVM
    uses no vector registers in a loop over more than a few arrays.
    """

    def define_pipelines(self) -> list:
        """As in `Compiler`."""
        self.state.flags.noalias = True
        return super().define_pipelines()


def compiled(**options: Any) -> Callable[[Callable[..., None]], Any]:
    """`njit` whose machine code is kept on disk.

    Where no folder for it can be written, neither beside the source nor in the user's cache,
    each process compiles its own.
    """

    def decorate(function: Callable[..., None]) -> Any:
        try:
            return njit(cache=True, **options)(function)
        except RuntimeError:  # no locator available
            return njit(**options)(function)

    return decorate


@dataclass(frozen=True)
class Kernel:
    """A loop over atoms, compiled twice from one source; neither holds the interpreter's lock.

    Attributes:
        parallel: With threads of its own, for one caller at a time.
        serial: In the caller's thread, beside other callers.
    """

    parallel: Callable[..., None]
    serial: Callable[..., None]


def kernel(**options: Any) -> Callable[[Callable[..., None]], Kernel]:
    """Compile a function whose outermost loop is a `prange`."""

    def twice(function: Callable[..., None]) -> Kernel:
        assert isinstance(function, FunctionType)
        # Numba's cache on disk tells functions apart by their names, not by these options.
        serial = FunctionType(function.__code__, function.__globals__, function.__name__)
        serial.__qualname__ = f"{function.__qualname__}_serial"
        serial.__module__ = function.__module__
        return Kernel(
            parallel=compiled(parallel=True, nogil=True, **options)(function),
            serial=compiled(nogil=True, pipeline_class=Unaliased, **options)(serial),
        )

    return twice


def run(loop: Kernel, *arguments: Any) -> None:
    """Call a kernel with as many threads as PyTorch would use in the calling one."""
    given = [as_array(a) if isinstance(a, Tensor) else float(a) for a in arguments]
    n_threads = min(torch.get_num_threads(), _MOST_THREADS)
    if n_threads == 1:
        loop.serial(*given)
        return
    with _PARALLEL:
        numba.set_num_threads(n_threads)
        loop.parallel(*given)


def lies_compiled(loop: Kernel) -> bool:
    """Whether Numba's cache has machine code of the file that a kernel stands in.

    Where it has none, the first call waits until that is made: seconds for a kernel.
    """
    file = Path(loop.serial.__code__.co_filename).stem
    folder = loop.serial.stats.cache_path  # type: ignore[attr-defined]
    return bool(folder) and any(Path(folder).glob(f"{file}.*.nbi"))


def compiled_for(function: Any, *arguments: Any) -> Callable[..., None]:
    """A function compiled for arguments of these types, and for no others.

    To find out the types of named tuples of thirty arrays at every call takes longer (13 µs) than
    what is then called takes to start (3 µs).
    """
    return function.compile(tuple(numba.typeof(argument) for argument in arguments))


def as_array(tensor: Tensor) -> np.ndarray:
    """The same numbers, contiguous.

    Every operator of PyTorch lets go of the interpreter's lock, and where callers are side by side
    may wait to have it back; so none is called that does nothing.
    """
    if tensor.requires_grad:
        tensor = tensor.detach()
    return (tensor if tensor.is_contiguous() else tensor.contiguous()).numpy()
