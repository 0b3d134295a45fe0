# mypy: disable-error-code="arg-type, call-arg, no-untyped-def, var-annotated"
# ... because kernels are not Python: their arguments become pointers, their constants numbers.
"""The springs of held bonds in one launch, as a CUDA graph can hold it.

Meaning: `held.HeldProtons.evaluate`, whose operators first ask the device which bonds there are. A
molecule's springs are added one after the other, so that a sum does not depend on who was first.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from mlff_core.batch import MolBatch
from mlff_core.models.force_field import Outputs


@triton.jit
def springs_kernel(
    numbers,  # labelled, int64 [n_atoms]
    positions,  # [n_atoms, 3]
    ptr,  # int64 [n_mols + 1]
    shares,  # of the longest slack bond in Å, by atomic number; float64, which a constant is not
    energy,  # float64 [n_mols], in place
    forces,  # float32 [n_atoms, 3], in place
    LABEL: tl.constexpr,
    STIFFNESS: tl.constexpr,
):
    molecule = tl.program_id(0).to(tl.int64)
    first = tl.load(ptr + molecule)
    end = tl.load(ptr + molecule + 1)
    stored = tl.load(energy + molecule)
    axis = tl.arange(0, 4)
    inside = axis < 3
    for hydrogen in range(first, end):
        label = tl.load(numbers + hydrogen)
        if label >= LABEL:
            heavy = first + label // LABEL - 1
            other = tl.load(numbers + heavy)
            here = tl.load(positions + hydrogen * 3 + axis, mask=inside, other=0.0)
            there = tl.load(positions + heavy * 3 + axis, mask=inside, other=0.0)
            away = here.to(tl.float64) - there.to(tl.float64)
            length = tl.sqrt(tl.sum(away * away, 0))
            slack = tl.load(shares + label % LABEL) + tl.load(shares + other % LABEL)
            beyond = tl.maximum(length - slack, 0.0)
            stored += 0.5 * STIFFNESS * beyond * beyond
            force = (-STIFFNESS * beyond * away / tl.maximum(length, 1e-6)).to(tl.float32)
            on_hydrogen = tl.load(forces + hydrogen * 3 + axis, mask=inside, other=0.0)
            tl.store(forces + hydrogen * 3 + axis, on_hydrogen + force, mask=inside)
            on_heavy = tl.load(forces + heavy * 3 + axis, mask=inside, other=0.0)
            tl.store(forces + heavy * 3 + axis, on_heavy - force, mask=inside)
            # The next bond may be to the same atom.
            tl.debug_barrier()
    tl.store(energy + molecule, stored)


def add_springs(
    batch: MolBatch, out: Outputs, shares: Tensor, *, label: int, stiffness: float
) -> None:
    """Add the springs of labelled molecules to energies and forces, in place.

    Args:
        batch: With labelled numbers, see `held.labelled`.
        out: Without the springs; forces are float32. Changed.
        shares: Of an atom in the length in Å up to which a spring is slack, by atomic number,
            float64.
        label: What numbers are labelled with.
        stiffness: eV/Å².
    """
    if out.forces.dtype != torch.float32 or out.energy.dtype != torch.float64:
        raise ValueError(
            f"expected energies in float64 and forces in float32, "
            f"found {out.energy.dtype} and {out.forces.dtype}"
        )
    springs_kernel[(len(batch.ptr) - 1,)](
        batch.numbers,
        batch.positions,
        batch.ptr,
        shares,
        out.energy,
        out.forces,
        LABEL=label,
        STIFFNESS=stiffness,
        num_warps=1,
    )
