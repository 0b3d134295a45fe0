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
#: Arguments that are given from anywhere in memory: one kernel for all of them.
_GIVEN = ["numbers_ptr", "positions_ptr", "mol_idx_ptr", "ptr_ptr", "charge_ptr"]


@triton.jit(do_not_specialize=["n_atoms", "n_mols", "room"], do_not_specialize_on_alignment=_GIVEN)
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
    than the copy itself, and the card waits for it. From the second time on the kernel is known,
    and gets addresses in place of tensors; tensors of other types than the buffers' are launched
    as at first.
    """

    def __init__(self, buffers: Inputs):
        self.buffers = buffers
        self.room = buffers[4].shape[0]
        self.types = tuple(buffer.dtype for buffer in buffers)
        self.addresses = tuple(buffer.data_ptr() for buffer in buffers)
        self.compiled: Any = None

    def __call__(self, given: Inputs) -> None:
        """Copy a batch."""
        given = tuple(t if t.is_contiguous() else t.contiguous() for t in given)
        n_atoms, n_mols, room = given[0].shape[0], given[4].shape[0], self.room
        grid = (-(-max(n_atoms, room + 1) // _BLOCK), 1, 1)
        usual = self.types == tuple(t.dtype for t in given)
        if usual and self.compiled is not None:
            addresses = (t.data_ptr() for t in given)
            self.compiled[grid](*addresses, *self.addresses, n_atoms, n_mols, room, _BLOCK)
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
