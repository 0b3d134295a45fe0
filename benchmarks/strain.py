"""How strained are ligands as crystal structures have them?

    python benchmarks/strain.py [--poses 100] [--conformers auto|N] [--device auto|cpu|cuda]
        [--model default|small] [--out strain.json]

Runs `mlff-screen strain` on `embedding/crystal_ligands.sdf.gz` (which have no hydrogens) and says
how far the neutral ones lie above the lowest minimum found: hydrogens relaxed only, heavy atoms in
a flat bottom of 0.3 Å, freely. Writes the quartiles and the time.
"""

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from _harness import RESULTS, Results, environment

from flows.strain import StrainCall, run_strain
from mlff_core.models.potential import choose_device

LIGANDS = Path(__file__).with_name("embedding") / "crystal_ligands.sdf.gz"
COLUMNS = (
    "strain_h_only_kcal_mol", "strain_restrained_kcal_mol", "strain_local_kcal_mol",
    "rmsd_restrained_angstrom", "rmsd_local_angstrom", "n_search_conformers",
)  # fmt: skip


def main() -> None:
    """Write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--poses", type=int, default=100)
    parser.add_argument("--conformers", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--model", default="default")
    parser.add_argument("--out", default="strain.json")
    arguments = parser.parse_args()
    device: torch.device = choose_device(arguments.device)
    result = Results(RESULTS / arguments.out, {"model": arguments.model, **environment(device)})
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        call = StrainCall.model_validate(
            {
                "poses": str(LIGANDS), "out": folder, "limit": arguments.poses,
                "conformers": arguments.conformers, "device": arguments.device,
                "model": arguments.model,
            }
        )  # fmt: skip
        rows = run_strain(call, lambda text: print(text, flush=True))
        took = time.monotonic() - began
    result.add(
        {
            "row": "all", "s": took, "n": len(rows),
            "status": dict(Counter(str(row.status) for row in rows)),
            "reason": dict(Counter(str(row.reason) for row in rows if row.reason is not None)),
            "found_by": dict(Counter(str(row.global_found_by) for row in rows
                                     if row.global_found_by is not None)),
        }
    )  # fmt: skip
    for name in COLUMNS:
        values = [v for row in rows if (v := getattr(row, name)) is not None]
        if values:
            shares = dict(zip(("least", "25", "median", "75", "90", "most"),
                              np.quantile(values, [0, 0.25, 0.5, 0.75, 0.9, 1]).tolist(),
                              strict=True))  # fmt: skip
            result.add({"row": name, "n": len(values), **shares})


if __name__ == "__main__":
    main()
