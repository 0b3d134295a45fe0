"""Measure which tiles of the kernels are fastest on this card, and keep them for later processes.

    python -m mlff_core.tune                          both shipped models
    python -m mlff_core.tune --models default --sizes large --precisions fp16x3
    python -m mlff_core.tune --out tiles.json         write the table to a file as well

Takes a minute or two, most of it compilation, which several processes share. The shipped models are
measured with their own weights. Without it the tiles of one H200 are used.
"""

import argparse
import multiprocessing
from collections.abc import Sequence
from pathlib import Path

import torch
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from mlff_core.batch import MolBatch
from mlff_core.cores import usable_cores
from mlff_core.models.checkpoint import read_checkpoint
from mlff_core.models.painn import PaiNN
from mlff_core.models.reference import SHORT_NAMES, find_model
from mlff_core.ops.triton import tiles
from mlff_core.ops.triton.tune import N_MOLS, compile_share, tune

#: Propranolol: 40 atoms, as many as the average drug.
SMILES = "CC(C)NCC(O)COc1cccc2ccccc12"
#: Processes that compile what the others do not; each holds a context, of less than 1 GiB.
MAX_PROCESSES = 24


def load_model(name: str) -> PaiNN:
    """A model's own weights, on the device."""
    return read_checkpoint(find_model(name))[0].to("cuda").requires_grad_(False)


def molecules(n_mols: int) -> MolBatch:
    """Copies of one molecule, on the device."""
    mol = Chem.AddHs(Chem.MolFromSmiles(SMILES))
    rdDistGeom.EmbedMolecule(mol, randomSeed=1)
    numbers = [atom.GetAtomicNum() for atom in mol.GetAtoms()]
    one = (numbers, mol.GetConformer().GetPositions(), 0)
    return MolBatch.from_arrays([one] * n_mols, device="cuda")


def compile_for(
    models: Sequence[str], sizes: Sequence[str], precisions: Sequence[str], share: int, n: int
) -> None:
    """One process's share of the compilation."""
    torch.set_num_threads(1)
    batches = [molecules(tiles.CLASSES[size] // 40 + 1) for size in sizes]
    for name in models:
        compile_share(load_model(name), batches, precisions, share, n)


def main() -> None:
    """Tune every class and keep the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join(SHORT_NAMES))
    parser.add_argument("--sizes", default=",".join(tiles.CLASSES))
    parser.add_argument("--precisions", default="fp16x3,fp16x3on,fp16")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    models, sizes, precisions = (
        text.split(",") for text in (arguments.models, arguments.sizes, arguments.precisions)
    )
    device = torch.cuda.get_device_name()
    free_gib = torch.cuda.mem_get_info()[0] // 2**30
    n = max(1, min(MAX_PROCESSES, usable_cores() - 1, free_gib - 1))
    spawn = multiprocessing.get_context("spawn")
    shares = [
        spawn.Process(target=compile_for, args=(models, sizes, precisions, k, n)) for k in range(n)
    ]
    for process in shares:
        process.start()
    for process in shares:
        process.join()
    # What was kept before, other models' choices among it, stays where nothing better is found.
    tiles.load(device)
    for name in models:
        model = load_model(name)
        for size in sizes:
            for precision in precisions:
                for line in tune(model, molecules(N_MOLS[size]), precision):
                    print(line, flush=True)
                tiles.save(device)
    if arguments.out:
        tiles.save(device, arguments.out)
    print(f"written to {tiles.cache_file(device)}")


if __name__ == "__main__":
    main()
