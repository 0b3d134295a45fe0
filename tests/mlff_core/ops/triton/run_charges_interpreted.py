"""A model with partial charges by kernels, in Triton's interpreter, for test_charges.py.

A process of its own, because Triton decides when it is imported whether it interprets.

    TRITON_INTERPRET=1 python run_charges_interpreted.py OUT.pt
"""

import sys
from dataclasses import replace

import torch

from mlff_core.batch import MolBatch
from mlff_core.models.painn import PaiNNConfig
from mlff_core.ops.triton import engine as engines
from mlff_core.ops.triton.engine import TritonEngine
from mlff_core.testing import NAMED_MOLECULES, random_model

#: Narrow and shallow: the interpreter is slow.
CONFIG = PaiNNConfig(
    n_features=32, n_interactions=2, n_rbf=3, charges_after=1, charge_feedback=True, coulomb=True
)

#: Charges that do less: nothing, which is to be read alone, or one of both.
LESS = {
    f"feedback {feedback}, Coulomb {coulomb}": replace(
        CONFIG, charge_feedback=feedback, coulomb=coulomb
    )
    for feedback, coulomb in ((False, False), (True, False), (False, True))
}


def batch_of_three() -> MolBatch:
    """Two atoms out of each other's reach, three neutral ones, and a cation of five."""
    names = ("two fluorides beyond the cutoff", "water", "ammonium")
    return MolBatch.from_arrays([NAMED_MOLECULES[name] for name in names])


def arguments(batch: MolBatch) -> tuple[torch.Tensor, ...]:
    """What `evaluate` takes."""
    return batch.numbers, batch.positions, batch.mol_idx, batch.ptr, batch.charge


def padded(batch: MolBatch) -> tuple[torch.Tensor, ...]:
    """The same with two atoms and a molecule of padding behind it."""
    numbers, positions, mol_idx, ptr, charge = arguments(batch)
    return (
        torch.cat([numbers, numbers.new_zeros(2)]),
        torch.cat([positions, positions[-2:] + 0.3]),
        torch.cat([mol_idx, mol_idx.new_zeros(2)]),
        torch.cat([ptr, ptr[-1:]]),
        torch.cat([charge, charge.new_zeros(1)]),
    )


def main(out: str) -> None:
    """Evaluate every case."""
    engine, batch = TritonEngine(random_model(1, CONFIG)), batch_of_three()
    results = {"padded": engine.evaluate(*padded(batch))}
    positions = batch.positions.clone()
    positions[batch.ptr[1] + 1, 1] = torch.nan
    results["poisoned"] = engine.evaluate(*arguments(batch.with_positions(positions)))
    for name, config in LESS.items():
        results[name] = TritonEngine(random_model(1, config)).evaluate(*padded(batch))
    engines.PIECE_MAX_ATOMS = 5
    results["pieces"] = engine._in_pieces(*padded(batch))
    torch.save(results, out)


if __name__ == "__main__":
    main(sys.argv[1])
