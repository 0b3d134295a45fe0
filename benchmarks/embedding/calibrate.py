"""Make the table of near distances that the embedder aims at: the student's own bonds and angles.

    python benchmarks/embedding/calibrate.py --library FILE.smi [--limit N] [--model default]
        [--out mlff_core/embedding/distances.json]

Molecules are embedded within RDKit's bounds, relaxed, and what kept its bonds and stereo says how
far the distances between bonded atoms and across angles are from the middle of their bounds.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mlff_core.chem.constrained import ConstrainedMolecule, prepare_constraints
from mlff_core.chem.molecule import ChemistrySettings
from mlff_core.chem.pool import EmbeddingPool
from mlff_core.chem.topology import rearranged
from mlff_core.embedding import embed_molecules
from mlff_core.embedding.distances import near_pairs, tabulated
from mlff_core.models.potential import Potential, load_potential
from mlff_core.moves.relax import relax_conformers
from mlff_core.status import ConformerStatus, MoleculeStatus

SHIPPED = Path(__file__).parents[2] / "mlff_core" / "embedding" / "distances.json"


def calibrate(molecules: Sequence[ConstrainedMolecule], potential: Potential) -> dict:
    """The content of the table's file."""
    waiting = [m for m in molecules if m.constraints is not None and m.status == MoleculeStatus.OK]
    constraints = [m.constraints for m in waiting]
    seeds = [m.seed for m in waiting]
    embedded = embed_molecules(constraints, 1, seeds, potential.device)
    good = [k for k, cause in enumerate(embedded.cause) if not cause[0]]
    relaxed = relax_conformers(
        [(waiting[k].numbers, embedded.positions[k][0], waiting[k].charge or 0) for k in good],
        potential,
    )
    kept, positions = [], []
    for k, one in zip(good, relaxed, strict=True):
        m, x = waiting[k], np.asarray(one.positions).reshape(-1, 3)
        ended = one.status == ConformerStatus.CONVERGED
        if ended and rearranged(x, m.numbers, m.bonds, m.chirality, m.double_bonds) is None:
            kept.append(k)
            positions.append(x)
    pairs = near_pairs([constraints[k] for k in kept], [waiting[k].numbers for k in kept])
    return {
        "what": "key, mean difference to the middle of the bounds, its spread, distances; in Å",
        "model": potential.name,
        "sha256": potential.sha256,
        "molecules": len(kept),
        "shifts": tabulated(pairs, np.concatenate(positions)),
    }


def write(content: dict, path: Path) -> None:
    """One entry a line, so that a change can be read."""
    head = {name: value for name, value in content.items() if name != "shifts"}
    rows = ",\n".join(json.dumps(row) for row in content["shifts"])
    path.write_text(json.dumps(head)[:-1] + ', "shifts": [\n' + rows + "\n]}\n")


def main() -> None:
    """Read a library and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--library", type=Path, required=True, help="one SMILES a line")
    parser.add_argument("--limit", type=int, default=12_000)
    parser.add_argument("--model", default="default")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=SHIPPED)
    options = parser.parse_args()
    lines = options.library.read_text().splitlines()[: options.limit]
    records = [(k, None, line.split()[0]) for k, line in enumerate(lines) if line.strip()]
    with EmbeddingPool(ChemistrySettings(max_atoms=128), prepare=prepare_constraints) as pool:
        molecules = list(pool.map(records))
    content = calibrate(molecules, load_potential(options.model, device=options.device))
    write(content, options.out)
    print(f"{len(content['shifts'])} kinds of distances from {content['molecules']} molecules")


if __name__ == "__main__":
    main()
