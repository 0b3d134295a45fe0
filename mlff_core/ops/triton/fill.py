# mypy: disable-error-code="arg-type, assignment, call-arg, no-untyped-def, var-annotated"
# ... because kernels are not Python: their arguments become pointers, their constants numbers.
"""A batch into the buffers of a recorded step: one launch, where copies one by one would be seven.

Meaning: `fill_plain`.
"""

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

#: numbers, positions, mol_idx, ptr and charge, as `TritonEngine.evaluate` takes them.
Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
#: Numbers that a program copies of each tensor.
_BLOCK = 256
#: A kernel compiled for tensors that begin at multiples of so many bytes reads them 16 at a time.
_ALIGNED = 16


@triton.jit(do_not_specialize=["n_atoms", "n_mols", "room"])
def fill_kernel(
    numbers_ptr,  # int64 [n_atoms]
    positions_ptr,  # [n_atoms, 3]
    mol_idx_ptr,  # int64 [n_atoms]
    ptr_ptr,  # int64 [n_mols + 1]
    charge_ptr,  # int64 [n_mols]
    numbers_out_ptr,
    positions_out_ptr,
    mol_idx_out_ptr,
    ptr_out_ptr,  # int64 [room + 1]
    charge_out_ptr,
    n_atoms,
    n_mols,
    room,  # for molecules
    BLOCK: tl.constexpr,
):
    program = tl.program_id(0)
    i = program * BLOCK + tl.arange(0, BLOCK)
    atom = i < n_atoms
    tl.store(numbers_out_ptr + i, tl.load(numbers_ptr + i, mask=atom, other=0), mask=atom)
    tl.store(mol_idx_out_ptr + i, tl.load(mol_idx_ptr + i, mask=atom, other=0), mask=atom)
    for part in tl.static_range(3):
        c = (program * 3 + part) * BLOCK + tl.arange(0, BLOCK)
        real = c < 3 * n_atoms
        x = tl.load(positions_ptr + c, mask=real, other=0.0)
        tl.store(positions_out_ptr + c, x, mask=real)
    mol = i < n_mols
    tl.store(charge_out_ptr + i, tl.load(charge_ptr + i, mask=mol, other=0), mask=mol)
    end = tl.load(ptr_ptr + tl.minimum(i, n_mols))
    tl.store(ptr_out_ptr + i, end, mask=i <= room)


def fill(buffers: Inputs, given: Inputs) -> None:
    """Copy a batch into buffers with room for it; the molecules left over begin where it ends.

    Args:
        buffers: Written, contiguous.
        given: Of the same types; nothing is copied before the launch where it is contiguous.
    """
    Filling(buffers)(given)


class Filling:
    """`fill` of the same buffers again and again, for which the host has little to do.

    Triton looks at each argument of a launch to find the kernel compiled for it, which takes longer
    than the copy itself. From the second time on it is known; it was compiled for tensors of the
    buffers' types that begin at multiples of _ALIGNED bytes, and others are launched as at first.
    """

    def __init__(self, buffers: Inputs):
        self.buffers = buffers
        self.room = len(buffers[4])
        self.compiled: Any = None

    def __call__(self, given: Inputs) -> None:
        """Copy a batch."""
        given = tuple(t if t.is_contiguous() else t.contiguous() for t in given)
        n_atoms, n_mols, room = len(given[0]), len(given[4]), self.room
        grid = (-(-max(n_atoms, room + 1) // _BLOCK), 1, 1)
        usual = not any(
            t.data_ptr() % _ALIGNED or t.dtype != buffer.dtype
            for t, buffer in zip(given, self.buffers, strict=True)
        )
        if usual and self.compiled is not None:
            self.compiled[grid](*given, *self.buffers, n_atoms, n_mols, room, _BLOCK)
            return
        compiled = fill_kernel[grid](
            *(t.detach() for t in given), *self.buffers, n_atoms, n_mols, room, _BLOCK, num_warps=4
        )
        if usual:
            self.compiled = compiled


def fill_plain(buffers: Inputs, given: Inputs) -> None:
    """The meaning of `fill`."""
    for buffer, tensor in zip(buffers, given, strict=True):
        buffer[: len(tensor)].copy_(tensor)
    ptr, given_ptr = buffers[3], given[3]
    ptr[len(given_ptr) :] = given_ptr[-1]
