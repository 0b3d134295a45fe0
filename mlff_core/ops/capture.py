"""Recording CUDA graphs without being disturbed."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def recording(graph: torch.cuda.CUDAGraph) -> Iterator[None]:
    """Record what the block launches into a graph.

    A graph or a tensor of a graph's memory that the garbage collector found meanwhile would be
    freed at once, which ends the recording with an error; so it collects before, and not during.
    Other threads of the process may use the device meanwhile.
    """
    gc.collect()
    collects = gc.isenabled()
    gc.disable()
    try:
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            yield
    finally:
        if collects:
            gc.enable()
