"""Recording CUDA graphs without being disturbed."""

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

#: Whoever ends a recording lets the collector in again, and must not while another records.
_ONE = threading.Lock()


@contextmanager
def no_collection() -> Iterator[None]:
    """Keep the garbage collector out, and other recordings.

    A graph, or a tensor of a graph's memory, that it found during a recording would be freed at
    once, which ends the recording with an error.
    """
    with _ONE:
        collects = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if collects:
                gc.enable()


@contextmanager
def recording(graph: torch.cuda.CUDAGraph, pool: Any = None) -> Iterator[None]:
    """Record what the block launches into a graph; garbage is collected before, and not during.

    Other threads of the process may use the device meanwhile.

    Args:
        graph: To record into.
        pool: From `torch.cuda.graph_pool_handle`, where graphs that never run at the same time
            share the memory of what they work with; None: its own.
    """
    gc.collect()
    with no_collection(), torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        yield
