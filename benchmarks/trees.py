"""Two trees in turn on a CPU: the same drugs relaxed by the default model, wall and CPU seconds.

    git archive 93269b1 | tar x -C /somewhere/before
    python benchmarks/trees.py /somewhere/before . [--drugs 40] [--rounds 3] [--threads 2]
    python benchmarks/trees.py --render benchmarks/results/trees.json

Every nth drug of datasets/druglike, embedded once by RDKit. Each round is a process of one tree,
then one of the other, so that both meet the same weather; what counts is the median of the rounds'
ratios. CPU seconds are user and system of the process while it relaxes: on a machine with other
work they say more than the wall. Steps are counted too, as a tree may take fewer of them.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import torch
from _harness import RESULTS, ROOT, Results, environment, in_words, render
from rdkit import Chem
from rdkit.Chem import rdDistGeom

#: Of the drugs that are taken, so that both trees' models know them.
ELEMENTS = {"H", "C", "N", "O", "F", "S", "Cl", "Br"}
#: What each tree runs; the first names are those of today, the others those of 93269b1.
CHILD = """
import json, resource, sys, time
import numpy as np
import torch
torch.set_num_threads(int(sys.argv[2]))
try:
    from mlff_core.models.potential import load_potential
    from mlff_core.moves.relax import relax_conformers
except ImportError:
    from mlff_core.potential import load_potential
    from mlff_core.relaxation import relax_conformers
stored = dict(np.load(sys.argv[1]))
ptr = stored["ptr"]
conformers = [
    (stored["numbers"][a:b], stored["positions"][a:b], int(q))
    for a, b, q in zip(ptr[:-1], ptr[1:], stored["charge"])
]
potential = load_potential("default", device="cpu")
relax_conformers(conformers[:2], potential)
before, begin = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
ended = relax_conformers(conformers, potential)
wall, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({
    "wall_s": wall,
    "cpu_s": after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime,
    "force_calls": sum(r.n_steps + 1 for r in ended),
    "atom_calls": sum(len(r.positions) * (r.n_steps + 1) for r in ended),
    "converged": sum(str(r.status) == "converged" for r in ended),
}))
"""


def write_drugs(file: Path, n: int) -> None:
    """Conformers of every so manieth drug."""
    with (ROOT / "datasets/druglike/druglike.csv").open(encoding="utf-8") as lines:
        smiles = [line["smiles"] for line in csv.DictReader(lines)]
    found = []
    for text in smiles[:: max(len(smiles) // n, 1)]:
        mol = Chem.MolFromSmiles(text)
        if mol is None or mol.GetNumAtoms() > 60:
            continue
        mol = Chem.AddHs(max(Chem.GetMolFrags(mol, asMols=True), key=Chem.Mol.GetNumAtoms))
        known = all(
            atom.GetSymbol() in ("H", "C", "N", "O", "F", "S", "Cl", "Br")
            for atom in mol.GetAtoms()
        )
        if known and rdDistGeom.EmbedMolecule(mol, randomSeed=7) == 0 and len(found) < n:
            found.append(mol)
    numbers = [np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()]) for mol in found]
    np.savez(
        file,
        numbers=np.concatenate(numbers),
        positions=np.concatenate([mol.GetConformer().GetPositions() for mol in found]),
        ptr=np.cumsum([0, *map(len, numbers)]),
        charge=np.array([Chem.GetFormalCharge(mol) for mol in found]),
    )


def run(tree: Path, drugs: Path, threads: int) -> dict[str, Any]:
    """What one process of a tree took.

    Raises:
        subprocess.CalledProcessError: It failed.
    """
    ran = subprocess.run(
        [sys.executable, "-c", CHILD, str(drugs), str(threads)],
        env={**os.environ, "PYTHONPATH": str(tree.resolve()), "OMP_WAIT_POLICY": "PASSIVE"},
        cwd=drugs.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(json.loads(ran.stdout.splitlines()[-1]))


def markdown(result: dict[str, Any]) -> str:
    """Each round, and the medians of the ratios."""
    about = in_words(result["environment"])
    lines = [
        "Made by `python benchmarks/trees.py` from the JSON beside it.",
        "",
        f"{about}; {result['drugs']} drugs, {result['threads']} threads; before: "
        f"{result['before']}.",
        "",
        "| round | tree | wall, s | CPU, s | force calls | CPU, µs/atom/call | converged |",
        "|---:|---|---:|---:|---:|---:|---:|",
    ]
    for r in result["rows"]:
        cells = [
            f"{r['round']}", r["tree"], f"{r['wall_s']:.1f}", f"{r['cpu_s']:.1f}",
            f"{r['force_calls']:,}", f"{1e6 * r['cpu_s'] / r['atom_calls']:.1f}",
            f"{r['converged']}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    rounds: dict[int, dict[str, dict[str, Any]]] = {}
    for r in result["rows"]:
        rounds.setdefault(r["round"], {})[r["tree"]] = r
    whole = [r for r in rounds.values() if len(r) == 2]
    if whole:
        wall = statistics.median(r["after"]["wall_s"] / r["before"]["wall_s"] for r in whole)
        cpu = statistics.median(r["after"]["cpu_s"] / r["before"]["cpu_s"] for r in whole)
        lines += ["", f"Median of after over before: wall {wall:.2f}, CPU {cpu:.2f}."]
    return "\n".join(lines)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path, nargs="?")
    parser.add_argument("after", type=Path, nargs="?", default=ROOT)
    parser.add_argument("--name", default="93269b1", help="of the tree before")
    parser.add_argument("--drugs", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS / "trees.json")
    parser.add_argument("--render", type=Path, metavar="JSON", help="only the table of it")
    arguments = parser.parse_args()
    if arguments.render:
        render(arguments.render, markdown)
        return
    if arguments.before is None:
        parser.error("give the tree before")
    results = Results(
        arguments.out,
        {
            "environment": environment(torch.device("cpu")),
            "drugs": arguments.drugs,
            "threads": arguments.threads,
            "before": arguments.name,
        },
    )
    with TemporaryDirectory() as folder:
        drugs = Path(folder) / "drugs.npz"
        write_drugs(drugs, arguments.drugs)
        for k in range(arguments.rounds):
            trees = {"before": arguments.before, "after": arguments.after}
            # Who is first takes turns too.
            for name in list(trees)[:: 1 if k % 2 == 0 else -1]:
                found = run(trees[name], drugs, arguments.threads)
                results.add({"round": k, "tree": name, **found})
    results.finish(markdown)


if __name__ == "__main__":
    main()
