"""The card's embedder against RDKit's ETKDGv3: quality after relaxation by one student, and speed.

    python benchmarks/embedding/quality.py --library FILE.smi [--skip N] [--limit N] [--many N]
        [--hundred N] [--kinds N] [--crystals N] [--speed N] [--model default]
        [--out benchmarks/results]

Both start from the same isomers and are relaxed alike. One conformer each of `limit` molecules, 20
of `many`, 100 of the first `hundred` of these, 5 of `kinds` of each hard kind. Of `crystals`
ligands and of as many macrocycles, if there are, 100 conformers are compared with the one of a
crystal structure, as embedded. Writes embedding.json after each part, then embedding.md and
embedding.png; with --speed 0 the speeds that embedding.json holds stay.
Needs a card; the reference takes 50 core-ms a conformer and more for hard kinds.
"""

import argparse
import json
import multiprocessing
import os
import platform
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import rdkit
import torch
from rdkit import Chem
from recovery import crystal_ligands, recovered
from references import Missing, Reference, hard_kinds, reference
from report import markdown, plot

from mlff_core.chem.constrained import on_a_core
from mlff_core.chem.molecule import ChemistrySettings
from mlff_core.chem.pool import EmbeddingPool
from mlff_core.chem.topology import rearrangements
from mlff_core.cores import usable_cores
from mlff_core.embedding import Cause, embed_molecules
from mlff_core.embedding.on_device import embed_on_device
from mlff_core.embedding.packing import SIZE_CLASSES, size_class
from mlff_core.models.potential import Potential, load_potential
from mlff_core.moves.relax import relax_conformers
from mlff_core.moves.settings import RelaxSettings
from mlff_core.status import ConformerStatus
from mlff_core.units import EV_KCAL_MOL

HUNDRED, MANY, FEW = 100, 20, 5
KINDS = ("macrocycles", "cages", "peptides", "charged", "hypervalent")


class Relaxed:
    """Conformers of molecules after relaxation.

    Attributes:
        energy: eV [n_molecules, most conformers]; infinite where there is none, or it did not
            converge, or came to other bonds or stereo.
        summary: Numbers for the report.
    """

    def __init__(
        self, molecules: Sequence[Reference], geometries: Sequence, potential: Potential
    ) -> None:
        flat = [(k, x) for k, own in enumerate(geometries) for x in own]
        most = max((len(own) for own in geometries), default=0)
        self.energy = np.full((len(molecules), max(most, 1)), np.inf)
        ended = relax_conformers(
            [(molecules[k].numbers, x, molecules[k].charge) for k, x in flat],
            potential,
            RelaxSettings(max_steps=400),
        )
        positions = [np.asarray(one.positions).reshape(-1, 3) for one in ended]
        changes = rearrangements(positions, [molecules[k].topology for k, _ in flat])
        place: Counter[int] = Counter()
        for (k, _), one, change in zip(flat, ended, changes, strict=True):
            if one.status == ConformerStatus.CONVERGED and change is None:
                self.energy[k, place[k]] = one.energy
            place[k] += 1
        changed = [change for change in changes if change]
        kinds = Counter(re.sub(r"[0-9.()Å]+", "", change).strip() for change in changed)
        above = [
            (one.initial_energy - one.energy) / len(x)
            for one, x in zip(ended, positions, strict=True)
        ]
        self.summary = {
            "conformers": len(flat),
            "steps_median": float(np.median([one.n_steps for one in ended])),
            "steps_mean": float(np.mean([one.n_steps for one in ended])),
            "start_above_minimum_ev_per_atom": float(np.median(above)),
            "changed_percent": 100.0 * len(changed) / len(flat),
            "changes": dict(kinds.most_common(6)),
        }


def compared(
    molecules: Sequence[Reference], n: int, potential: Potential, lowest_of: Sequence[int]
) -> dict:
    """Both embedders on the same molecules, n conformers each."""
    begin = time.perf_counter()
    embedded = embed_molecules(
        [m.constraints for m in molecules],
        n,
        range(len(molecules)),
        potential.device,
        numbers=[m.numbers for m in molecules],
    )
    seconds = time.perf_counter() - begin
    accepted = [x[c == 0] for x, c in zip(embedded.positions, embedded.cause, strict=True)]
    card = Relaxed(molecules, accepted, potential)
    etkdg = Relaxed(molecules, [m.positions for m in molecules], potential)
    first = sum(int((t == 1).sum() - c[t == 1].astype(bool).sum())
                for t, c in zip(embedded.attempts, embedded.cause, strict=True))  # fmt: skip
    result = {
        "molecules": len(molecules),
        "conformers_each": n,
        "atoms_mean": float(np.mean([len(m.numbers) for m in molecules])),
        "etkdg": etkdg.summary
        | {"seconds_a_molecule": float(np.mean([m.seconds for m in molecules]))},
        "card": card.summary
        | {
            "first_try_percent": 100.0 * first / (n * len(molecules)),
            "molecules_without": sum(not len(x) for x in accepted),
            "causes": {cause.name: count for cause, count in embedded.counts.most_common()},
            "embedded_per_s": n * len(molecules) / seconds,
        },
        "lowest": {},
    }
    for k in lowest_of:
        ours, theirs = card.energy[:, :k].min(1), etkdg.energy[:, :k].min(1)
        both = np.isfinite(ours) & np.isfinite(theirs)
        kcal = (ours[both] - theirs[both]) * EV_KCAL_MOL
        result["lowest"][str(k)] = {
            "mean_kcal_mol": float(kcal.mean()),
            "error_of_mean": float(kcal.std() / max(len(kcal), 1) ** 0.5),
            "median_kcal_mol": float(np.median(kcal)),
            "card_lower_percent": float(100 * np.mean(kcal < -0.1)),
            "etkdg_lower_percent": float(100 * np.mean(kcal > 0.1)),
            "differences": [round(float(d), 3) for d in kcal],
        }
    return result


def speed_by_size(molecules: Sequence[Reference], device: torch.device) -> list[dict]:
    """Conformers/s of the card alone, constraints ready, by size class and number a molecule."""
    rows = []
    for size in SIZE_CLASSES:
        mine = [m for m in molecules if size_class(len(m.numbers)) == size]
        if not mine:
            continue
        for n in (1, 5, 20, 100):
            wanted = max(1, min(20_000 * 32 // size, 20_000) // n)
            many = [mine[k % len(mine)] for k in range(wanted)]
            arguments = (
                [m.constraints for m in many], n, range(wanted), device,
            )  # fmt: skip
            z = [m.numbers for m in many]
            embed_molecules(*arguments, numbers=z) if n == 1 else None  # compile
            begin = time.perf_counter()
            embed_molecules(*arguments, numbers=z)
            seconds = time.perf_counter() - begin
            rows.append({"size": size, "each": n, "conformers_per_s": n * wanted / seconds})
    return rows


def speed_with_preparation(library: Sequence[str], n: int, device: torch.device) -> dict:
    """SMILES to checked coordinates, as a screen does it: preparation on all cores."""
    records = [(k, None, smiles) for k, smiles in enumerate(library)]
    with EmbeddingPool(ChemistrySettings(n_conformers=n), prepare=on_a_core) as pool:
        embed_on_device(records[:1024], pool, device)  # starts the processes
        begin = time.perf_counter()
        done = embed_on_device(records, pool, device)
        seconds = time.perf_counter() - begin
    return {
        "molecules": len(records),
        "conformers_each": n,
        "conformers_per_s": sum(len(m.positions) for m in done.molecules) / seconds,
        "molecules_left_to_rdkit": done.n_by_rdkit,
        "core_ms_preparation": 1e3 * sum(m.timings_s for m in done.molecules) / len(records),
        "card_and_host_seconds": done.device_s,
        "seconds": seconds,
    }


def rescued(missing: Sequence[Missing], device: torch.device) -> dict:
    """What the card makes of molecules that ETKDG did not embed in 10 s."""
    known = [m for m in missing if m.constraints is not None]
    found = embed_molecules(
        [m.constraints for m in known], 1, range(len(known)), device,
        numbers=[m.numbers for m in known],
    )  # fmt: skip
    return {
        "not_embedded_by_etkdg": len(known),
        "of_those_embedded_by_the_card": sum(int(c[0] == 0) for c in found.cause),
        "causes": Counter(Cause(int(c[0])).name for c in found.cause if c[0]),
        "smiles": [m.smiles for m in known],
    }


def main() -> None:
    """Everything, from one set of references."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--library", type=Path, required=True, help="one SMILES a line")
    parser.add_argument("--skip", type=int, default=0)
    parser.add_argument("--limit", type=int, default=3000)
    parser.add_argument("--many", type=int, default=200)
    parser.add_argument("--hundred", type=int, default=40, help="of the many, with 100 conformers")
    parser.add_argument("--kinds", type=int, default=60)
    parser.add_argument("--crystals", type=int, default=100)
    parser.add_argument("--speed", type=int, default=16_384, help="molecules, with preparation")
    parser.add_argument("--model", default="default")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    lines = [line.split()[0] for line in options.library.read_text().splitlines() if line.strip()]
    library = lines[options.skip :]
    hard = hard_kinds(library, options.kinds)
    crystals = crystal_ligands(options.crystals)
    sets = {  # in the order of `measure`
        "one": (library[options.many : options.many + options.limit], 1),
        "many": (library[: options.many], MANY),
        **{kind: (hard[kind], FEW) for kind in KINDS},
        "hundred": (library[: options.hundred], HUNDRED),
        **{
            f"crystal {kind}": ([*map(Chem.MolToSmiles, own)], HUNDRED)
            for kind, own in crystals.items()
        },
    }
    tasks = [(smiles, n) for own, n in sets.values() for smiles in own]
    # Forked before CUDA starts. What is asked for first is compared while the rest is made.
    with multiprocessing.get_context("fork").Pool(usable_cores(), os.nice, (10,)) as processes:
        made = processes.imap(reference, tasks)
        references = {name: islice(made, len(own)) for name, (own, _) in sets.items()}
        measure(options, library, crystals, references)


def measure(
    options: argparse.Namespace,
    library: list[str],
    crystals: dict[str, list[Chem.Mol]],
    references: dict[str, Iterator[Reference | Missing]],
) -> None:
    """Compare set by set, in the order in which the references come, and write it all."""
    potential = load_potential(options.model, device=options.device)
    missing: list[Missing] = []

    def ready(name: str) -> list[Reference]:
        own = [*references[name]]
        missing.extend(r for r in own if isinstance(r, Missing))
        return [r for r in own if isinstance(r, Reference)]

    one = ready("one")
    path = options.out / "embedding.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    options.out.mkdir(parents=True, exist_ok=True)
    result = {
        "machine": {
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            "cores": usable_cores(),
            "torch": torch.__version__,
            "rdkit": rdkit.__version__,
            "python": platform.python_version(),
        },
        "model": {"name": potential.name, "sha256": potential.sha256},
        "kinds": {},
        "recovery": {},
    }

    def note(**parts: dict | list | bool) -> None:
        result.update(parts)
        one_line = re.sub(  # a list of numbers a line, not a number
            r"\[([\d\s.,e-]+)\]",
            lambda m: f"[{' '.join(m[1].split())}]",
            json.dumps(result, indent=1),
        )
        path.write_text(one_line + "\n")

    note(one=compared(one, 1, potential, (1,)))
    many = ready("many")
    note(many=compared(many, MANY, potential, (1, FEW, MANY)))
    everyone = [*one, *many]
    for kind in KINDS:
        if own := ready(kind):
            result["kinds"][kind] = compared(own, FEW, potential, (1, FEW))
            everyone += own
            note()
    hundred = ready("hundred")
    note(hundred=compared(hundred, HUNDRED, potential, (1, FEW, MANY, HUNDRED)))
    for kind, ligands in crystals.items():
        result["recovery"][kind] = recovered(
            ligands,
            [*references[f"crystal {kind}"]],
            HUNDRED,
            (1, FEW, MANY, HUNDRED),
            potential.device,
        )
        note()
    note(not_embedded=rescued(missing, potential.device))
    speeds = ("speed_by_size", "speed_with_preparation")
    note(speed_is_of_before=not options.speed)
    if options.speed:
        note(speed_by_size=speed_by_size(everyone, potential.device))
        note(
            speed_with_preparation=[
                speed_with_preparation(library[: options.speed], n, potential.device)
                for n in (1, FEW)
            ]
        )
    else:
        note(**{name: before[name] for name in speeds if name in before})
    text = markdown(result)
    (options.out / "embedding.md").write_text(text)
    plot(result, options.out / "embedding.png")
    print(text)


if __name__ == "__main__":
    main()
