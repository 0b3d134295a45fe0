"""Launches that compile their kernels and launch nothing, shared out among processes.

Triton compiles a kernel when it is first launched with arguments of such types, and keeps it on
disk. What that takes is one core's time, so that several processes that walk through the same
launches, each compiling what no other has begun, are done sooner.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from triton import knobs
from triton.runtime import JITFunction


def settle_keys(*modules: ModuleType) -> None:
    """Let Triton compute what it keeps the kernels of modules under on disk, in this order.

    The key of a kernel depends on whether that of a function which it calls is known: in processes
    that launch kernels in other orders none would find what another compiled. The interpreter keeps
    nothing, and has functions that kernels by warpgroups cannot be compiled with.
    """
    if knobs.runtime.interpret:
        return
    for module in modules:
        for value in list(vars(module).values()):
            if isinstance(value, JITFunction):
                _ = value.cache_key


@contextmanager
def compiling_only(claims: Path) -> Iterator[None]:
    """Inside, a launch compiles its kernel, unless a process has begun to, and launches nothing.

    What a kernel would have written is never written: only what does not depend on it may be
    called inside. A kernel that cannot be compiled is left to who launches it in earnest.

    Args:
        claims: An empty folder that the processes share: a file for each kernel that is begun.
    """
    launch, hook = JITFunction.run, knobs.runtime.jit_cache_hook

    def is_begun(*, key: str, fn: Any, **_: object) -> bool:
        name = hashlib.sha256(f"{fn.module}.{fn.name} {key}".encode()).hexdigest()
        try:
            (claims / name).touch(exist_ok=False)
        except FileExistsError:
            return True
        return False

    def compile_only(self: JITFunction, *args: object, **kwargs: Any) -> None:
        try:
            compiled = launch(self, *args, **{**kwargs, "warmup": True})
            if compiled is not None and torch.cuda.is_available():
                _ = compiled.run  # what hands the arguments over is C, and compiled with it
        except Exception:
            return

    JITFunction.run = compile_only  # type: ignore[method-assign]
    knobs.runtime.jit_cache_hook = is_begun
    try:
        yield
    finally:
        JITFunction.run = launch  # type: ignore[method-assign]
        knobs.runtime.jit_cache_hook = hook
