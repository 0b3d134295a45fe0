"""Learn to read partial charges from students without, whose own weights stay as they are.

    python datasets/add_charges.py --teacher FILE --table HARD.parquet --models MODEL --out FOLDER

FILE is what datasets/fetch_teacher.py prints, HARD.parquet what datasets/make_hard.py chooses; what
its connectivity holds out is tested. For each model and each block of --after, FOLDER gets what
reads the charges (MODEL-after-K.safetensors) and what it came to (add_charges.json). With
`--ship MODEL-after-K.safetensors --models MODEL` it is written where the shipped model is, and
nothing else happens: `load_potential(MODEL, charges=True)` finds it there.
"""

import argparse
import json
import logging
import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mlff_core.cores import usable_cores
from mlff_core.distill import readout
from mlff_core.distill.embedding import Embedded
from mlff_core.distill.evaluation import driver_of
from mlff_core.distill.labelling import Buckets, fill, pad
from mlff_core.distill.molecules import choose_molecules
from mlff_core.distill.pool import LabelPool
from mlff_core.distill.recipe import Recipe, read_recipe
from mlff_core.distill.sampling import KINDS
from mlff_core.distill.steps import embed_all
from mlff_core.distill.teacher import Teacher
from mlff_core.models.checkpoint import read_checkpoint
from mlff_core.models.potential import Potential, choose_device, load_potential
from mlff_core.models.readout_file import save_readout
from mlff_core.models.reference import find_model
from mlff_core.units import E_ANGSTROM_DEBYE

RECIPE = Path(__file__).parent / "recipes/charges.toml"
N_CONFORMERS = 2

log = logging.getLogger("add_charges")


def pool_of(
    molecules: list[Embedded], teacher: Teacher, driver: Potential, recipe: Recipe, seed: int
) -> LabelPool:
    """The teacher's labels, charges among them, of where a student goes."""
    buckets = Buckets(recipe.labels.atoms_a_call, N_CONFORMERS)
    buckets.add(molecules)
    pool = LabelPool(
        len(molecules), N_CONFORMERS * len(KINDS), max(buckets.sizes), teacher.device,
        with_charges=True,
    )  # fmt: skip
    drives, rng, counts = driver_of(driver), random.Random(seed), Counter[str]()
    torch.manual_seed(seed)
    while (taken := buckets.take(partial=True)) is not None:
        width, chunk = taken
        padded = pad(chunk, width, teacher.device)
        fill(pool, teacher, drives, padded, recipe.sampling.drawn(rng), recipe.labels, counts)
    log.info("%d molecules labelled: %s", pool.n_stored, dict(counts))
    return pool


def summary(read: torch.nn.Module, tested: readout.Labelled) -> dict[str, Any]:
    """Errors on held-out molecules."""
    charge, dipole = readout.errors(read, tested)  # type: ignore[arg-type]
    found: dict[str, Any] = {}
    for name, chosen in (("neutral", tested.total == 0), ("charged", tested.total != 0)):
        if chosen.any():
            atoms: Tensor = tested.real[chosen].sum(1)
            found[name] = {
                "n_geometries": int(chosen.sum()),
                "charge_mae_e": float((charge[chosen] * atoms).sum() / atoms.sum()),
                "dipole_mae_debye": E_ANGSTROM_DEBYE * float(dipole[chosen].mean()),
            }
    return found


def learn(arguments: argparse.Namespace) -> None:
    """Everything up to what reads the charges."""
    began = time.monotonic()
    device, seed = choose_device(arguments.device), arguments.seed
    recipe = read_recipe(arguments.recipe)
    table = pq.read_table(arguments.table, columns=["smiles"])["smiles"].to_pylist()
    chosen, _ = choose_molecules(table, recipe.molecules, n_processes=usable_cores())
    held_out = [c.smiles for c in chosen if c.held_out][: arguments.n_test]
    known = [c.smiles for c in chosen if not c.held_out][: arguments.n_molecules]
    with ThreadPoolExecutor(1) as beside:
        embedding = beside.submit(
            lambda: [embed_all(s, N_CONFORMERS, seed, usable_cores())[0] for s in (held_out, known)]
        )
        teacher = Teacher(arguments.teacher, device)
        driver = load_potential("small", device=device, precision="float32")
        molecules = embedding.result()
    log.info("embedded %d + %d after %.0f s", *map(len, molecules), time.monotonic() - began)
    pools = [pool_of(some, teacher, driver, recipe, seed + k) for k, some in enumerate(molecules)]
    trainers: dict[tuple[str, int], readout.ReadoutTrainer] = {}
    tested: dict[tuple[str, int], readout.Labelled] = {}
    shas: dict[str, str] = {}
    for model in arguments.models:
        network, _, shas[model] = read_checkpoint(find_model(model))
        network = network.to(device).requires_grad_(False)
        for after in arguments.after:
            key = model, after
            tested[key], learnt = (readout.labelled(network, pool, after) for pool in pools)
            config = readout.ReadoutConfig(after=after, n_mols=arguments.batch, seed=seed)
            trainers[key] = readout.ReadoutTrainer(network, learnt, config)
            log.info("%s after block %d: %d labels", *key, len(learnt.total))
    first = time.monotonic()
    end = max(first + 1.0, began + arguments.seconds - 5.0)
    report = arguments.out / "add_charges.json"
    arguments.out.mkdir(parents=True, exist_ok=True)
    looked, done = first, False
    while not done:
        progress = (time.monotonic() - first) / (end - first)
        done = progress >= 1.0
        for trainer in trainers.values():
            for _ in range(50 if device.type == "cuda" else 1):
                trainer.step(progress)
        if done or time.monotonic() - looked > 20.0:
            looked = time.monotonic()
            rows = []
            for (model, after), trainer in trainers.items():
                row = {"model": model, "after": after, "steps": trainer.n_steps,
                       "labels": len(trainer.known.total), "progress": progress}  # fmt: skip
                rows.append(row | summary(trainer.averaged, tested[model, after]))
                log.info("%s", json.dumps(rows[-1]))
                weights = {k: v.cpu() for k, v in trainer.averaged.state_dict().items()}
                about = {"model_sha256": shas[model], "after": str(after)}
                save_file(weights, arguments.out / f"{model}-after-{after}.safetensors", about)
            report.write_text(json.dumps({"rows": rows}, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--teacher", type=Path)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--out", type=Path, default=Path("out/charges"))
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--models", nargs="+", required=True, help="checkpoints without charges")
    parser.add_argument("--after", nargs="*", type=int, default=[2, 3])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seconds", type=float, default=250.0, help="for everything")
    parser.add_argument("--n-molecules", type=int, default=10_000)
    parser.add_argument("--n-test", type=int, default=600)
    parser.add_argument("--batch", type=int, default=512, help="geometries")
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--ship", type=Path, help="what was learnt, to lie beside a shipped model")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if arguments.ship is None:
        learn(arguments)
        return
    [model] = arguments.models
    after = int(arguments.ship.stem.rpartition("-")[2])
    print(save_readout(find_model(model), load_file(arguments.ship), after))


if __name__ == "__main__":
    main()
