"""Write docs/model_card.md, and the headline in the checkpoint's JSON, from measured results.

    python benchmarks/model_card.py [benchmarks/accuracy.json]

The results are those of `benchmarks/accuracy.py teacher`; no number in the card is typed by hand.
"""

import json
import sys
from pathlib import Path

from rdkit.Chem import GetPeriodicTable

from mlff_core.potential import find_model, read_checkpoint

ROOT = Path(__file__).parents[1]

#: Quantity, part of the results, key, unit, and the target that it has to meet.
TARGETS = (
    ("force MAE, distorted geometries", "distorted", "force_mae", "meV/Å", 30.0),
    ("force RMSE, distorted geometries", "distorted", "force_rmse", "meV/Å", 50.0),
    ("energy within one molecule, distorted", "distorted", "energy_mae", "kcal/mol", 0.6),
)

KINDS = {
    "path": "on the way from an embedded geometry to the minimum",
    "minimum": "at and around minima",
    "hot": "snapshots at 300 to 1000 K",
    "distorted": "displaced, strained and twisted",
}


def row(name: str, values: dict[str, float]) -> str:
    """A line of a table of errors."""
    return (
        f"| {name} | {values['n_molecules']:,.0f} | {values['n_geometries']:,.0f} "
        f"| {values['rms_force']:.2f} | {values['force_mae']:.0f} | {values['force_rmse']:.0f} "
        f"| {values['energy_mae']:.2f} |"
    )


def card(results: dict, checkpoint: dict) -> str:
    """The page, in Markdown."""
    symbol = GetPeriodicTable().GetElementSymbol
    config, leg = checkpoint["config"], checkpoint["last_leg"]
    head = [
        "| | molecules | geometries | rms force, eV/Å | force MAE, meV/Å | force RMSE, meV/Å "
        "| energy within a molecule, MAE, kcal/mol |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    by_charge = sorted(results["by_charge"].items(), key=lambda item: int(item[0]))
    by_element = sorted(results["by_element"].items(), key=lambda item: int(item[0]))
    met = [
        f"| {name} | {target:g} {unit} | {results[part][key]:.3g} {unit} "
        f"| {'met' if results[part][key] <= target else '**missed**'} |"
        for name, part, key, unit, target in TARGETS
    ]
    ratio = results["charged"]["force_mae"] / results["neutral"]["force_mae"]
    met.append(
        f"| force MAE of charged molecules | 1.3 × neutral | {ratio:.2f} × neutral "
        f"| {'met' if ratio <= 1.3 else '**missed**'} |"
    )
    lines = [
        f"# Model card: {checkpoint['name']}",
        "",
        "Written by `benchmarks/model_card.py` from `benchmarks/accuracy.json`, which "
        f"`benchmarks/accuracy.py teacher` measured on one {results['device'].split()[-1]}.",
        "",
        "## What it is",
        "",
        f"PaiNN, {config['n_features']} features, {config['n_interactions']} blocks, "
        f"{config['n_rbf']} radial functions, cutoff {config['cutoff']} Å, distilled from AIMNet2 "
        "(ωB97M-D3; the mean of its four members). Molecules in vacuum, closed shells.",
        "",
        f"- elements: {' '.join(symbol(z) for z in config['elements'])}",
        f"- total charge: {config['min_charge']:+d} to {config['max_charge']:+d}, others are "
        "refused",
        f"- sha256: `{checkpoint['sha256']}`",
        f"- teacher's sha256: `{results['teacher_sha256']}`",
        "- molecules: drug-like SMILES of public collections (ChEMBL, ZINC, USPTO, MOSES, PubChem "
        "and others), about a quarter charged, split by the connectivity layer of their InChIKeys",
        f"- last leg of training: {leg['seconds']:.0f} s on one H200, {leg['samples']:,} samples, "
        f"{leg['molecules_embedded']:,} molecules embedded beside it",
        "",
        "## Held-out molecules, against the teacher",
        "",
        f"{results['n_embedded']:,} molecules that share no connectivity with any that was trained "
        "on. Energies are compared within one molecule, its mean taken off.",
        "",
        *head,
        row("all", results["all"]),
        row("neutral", results["neutral"]),
        row("charged", results["charged"]),
        row("distorted and hot", results["distorted"]),
        *(row(text, results["by_kind"][kind]) for kind, text in KINDS.items()),
        *(row(f"charge {int(charge):+d}".replace("+0", "0"), v) for charge, v in by_charge),
        "",
        "| element | atoms | force MAE, meV/Å | force RMSE, meV/Å |",
        "|---|---:|---:|---:|",
        *(
            f"| {symbol(int(z))} | {v['n_atoms']:,.0f} | {v['force_mae']:.0f} "
            f"| {v['force_rmse']:.0f} |"
            for z, v in by_element
        ),
        "",
        "Left out, because the teacher's members disagree or the geometry is none of a molecule: "
        + ", ".join(f"{n:,} {why.replace('_', ' ')}" for why, n in results["labels"].items()
                    if why != "labels")
        + f", of {results['labels']['labels']:,} labels.",
        "",
        "## Against what it is meant to reach",
        "",
        "| quantity | must | measured | |",
        "|---|---|---|---|",
        *met,
        "",
        "## Where it fails",
        "",
        "The molecules with the largest force error; most are strained, hypervalent, or carry "
        "charges next to each other:",
        "",
        "| SMILES | force RMSE, meV/Å |",
        "|---|---:|",
        *(f"| `{w['smiles']}` | {w['force_rmse']:.0f} |" for w in results["worst"]),
        "",
        "Molecules of charge ±2 and beyond are few in the training data, and their long-range "
        "electrostatics reach beyond what three blocks of 5 Å see. Relaxed geometries against the "
        "teacher's, drift in long dynamics, and conformer ranking beside other methods have not "
        "been measured yet.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write both files."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "benchmarks/accuracy.json"
    results = json.loads(path.read_text())
    tensors = find_model("default")
    _, checkpoint, sha256 = read_checkpoint(tensors)
    if results["model_sha256"] != sha256:
        raise SystemExit(f"{path}: measured on {results['model_sha256']}, shipped is {sha256}")
    overall = results["all"]
    checkpoint["headline"] = {
        "held-out force MAE / RMSE": f"{overall['force_mae']:.0f} / {overall['force_rmse']:.0f} "
        f"meV/Å ({results['n_embedded']:,} molecules, against the teacher)",
        "held-out energy MAE": f"{overall['energy_mae']:.2f} kcal/mol within a molecule",
    }
    text = json.dumps(checkpoint, indent=2, ensure_ascii=False)
    tensors.with_suffix(".json").write_text(text + "\n", encoding="utf-8")
    (ROOT / "docs/model_card.md").write_text(card(results, checkpoint), encoding="utf-8")


if __name__ == "__main__":
    main()
