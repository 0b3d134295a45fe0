"""The page and the plot of `quality.py`, from its numbers.

python benchmarks/embedding/report.py [FILE]
"""

import json
import sys
from pathlib import Path

COLORS = {"etkdg": "#898781", "card": "#2a78d6"}


def markdown(result: dict) -> str:
    """The page."""
    machine, one, many = result["machine"], result["one"], result["many"]
    lines = [
        "# Embedding on the card against ETKDGv3",
        "",
        f"`benchmarks/embedding/quality.py` on one {machine['device']} with {machine['cores']} "
        f"cores, torch {machine['torch']}, RDKit {machine['rdkit']}; both relaxed by "
        f"`{result['model']['name']}`, fmax 0.05 eV/Å. {one['molecules']} molecules of "
        f"{one['atoms_mean']:.0f} atoms with one conformer, {many['molecules']} with "
        f"{many['conformers_each']}.",
        "",
        "| | ETKDGv3 | card |",
        "|---|---|---|",
    ]
    for label, key, form in (
        ("steps to converge, median", "steps_median", ".0f"),
        ("steps to converge, mean", "steps_mean", ".1f"),
        ("start above the minimum, eV an atom", "start_above_minimum_ev_per_atom", ".4f"),
        ("came to other bonds or stereo, %", "changed_percent", ".2f"),
    ):
        lines.append(f"| {label} | {one['etkdg'][key]:{form}} | {one['card'][key]:{form}} |")
    missing, card = result["not_embedded"], one["card"]
    lines += [
        f"| right at the first try, % | | {card['first_try_percent']:.2f} |",
        f"| without a conformer | {missing['not_embedded_by_etkdg']} of all | "
        f"{card['molecules_without']} of {one['molecules']} that ETKDG embeds, and "
        f"{missing['not_embedded_by_etkdg'] - missing['of_those_embedded_by_the_card']} of those "
        "that it does not |",
        "",
        f"Tries that were not accepted, by cause: {words(card['causes'])}. Changes in relaxation: "
        f"ETKDG {words(one['etkdg']['changes'])}; card {words(card['changes'])}.",
        "",
        "## Lowest energy found, card minus ETKDG, kcal/mol",
        "",
        "| molecules | of | mean | ± | median | card lower by 0.1, % | ETKDG lower by 0.1, % |",
        "|---|---|---|---|---|---|---|",
    ]
    named = [("library", one), ("library", many), ("library", result["hundred"])]
    named += result["kinds"].items()
    for name, block in named:
        for n, low in block["lowest"].items():
            lines.append(
                f"| {name} ({block['molecules']}) | {n} | {low['mean_kcal_mol']:+.2f} | "
                f"{low['error_of_mean']:.2f} | {low['median_kcal_mol']:+.2f} | "
                f"{low['card_lower_percent']:.0f} | {low['etkdg_lower_percent']:.0f} |"
            )
    lines += [
        "",
        "## Hard kinds, five conformers each",
        "",
        "| kind | atoms | steps, ETKDG | card | changed %, ETKDG | card | first try, % | "
        "without a conformer |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind, block in result["kinds"].items():
        e, c = block["etkdg"], block["card"]
        lines.append(
            f"| {kind} | {block['atoms_mean']:.0f} | {e['steps_median']:.0f} | "
            f"{c['steps_median']:.0f} | {e['changed_percent']:.1f} | {c['changed_percent']:.1f} | "
            f"{c['first_try_percent']:.1f} | {c['molecules_without']} of {block['molecules']} |"
        )
    lines += recovery(result["recovery"])
    if "speed_by_size" in result:
        lines += speed(result)
    return "\n".join(lines) + "\n"


def recovery(kinds: dict[str, dict]) -> list[str]:
    """The section on crystal structures."""
    limits = [*next(iter(kinds.values()))["card"]["1"]["recovered_percent"]]
    lines = [
        "",
        "## The conformer of a crystal structure",
        "",
        "Ligands of the PDB (`crystal_ligands.sdf.gz`, from the wwPDB's Chemical Component",
        "Dictionary, CC0), no macrocycle among those of the first rows. RMSD in Å of the heavy",
        "atoms to the nearest of so many conformers as embedded, in vacuum and not relaxed; a",
        "ligand without a conformer counts as not recovered.",
        "",
        "| | of | ETKDG, mean | card | ETKDG, median | card | "
        + " | ".join(f"within {limit}, %: ETKDG | card" for limit in limits)
        + " |",
        "|---" * (6 + 2 * len(limits)) + "|",
    ]
    for kind, block in kinds.items():
        for n, theirs in block["etkdg"].items():
            ours = block["card"][n]
            cells = [f"{kind} ({block['embedded_by_etkdg']})", n]
            for key in ("mean_rmsd", "median_rmsd"):
                cells += [f"{theirs[key]:.2f}", f"{ours[key]:.2f}"]
            for limit in limits:
                cells += [f"{x['recovered_percent'][limit]:.0f}" for x in (theirs, ours)]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def speed(result: dict) -> list[str]:
    """The section on speed."""
    lines = ["", "## Speed", ""]
    if result["speed_is_of_before"]:
        lines += [
            "Kept from an earlier run of the benchmark, with the version of that day: "
            "`benchmarks/screen.py` tells what a screen does now.",
            "",
        ]
    lines += ["| | conformers/s |", "|---|---|"]
    for row in result["speed_with_preparation"]:
        lines.append(
            f"| SMILES to coordinates, {row['conformers_each']} a molecule "
            f"({row['molecules']} molecules, {row['core_ms_preparation']:.1f} core-ms each, "
            f"{row['molecules_left_to_rdkit']} left to RDKit) | {row['conformers_per_s']:.0f} |"
        )
    lines += ["", "Constraints ready, checks and further tries included:", ""]
    each = sorted({row["each"] for row in result["speed_by_size"]})
    lines.append("| atoms up to | " + " | ".join(f"{n} a molecule" for n in each) + " |")
    lines.append("|---" * (len(each) + 1) + "|")
    for size in sorted({row["size"] for row in result["speed_by_size"]}):
        found = {r["each"]: r["conformers_per_s"] for r in result["speed_by_size"]
                 if r["size"] == size}  # fmt: skip
        lines.append(f"| {size} | " + " | ".join(f"{found[n]:.0f}" for n in each) + " |")
    return lines


def words(counts: dict[str, int]) -> str:
    """A count of names as a list."""
    return ", ".join(f"{name} {n}" for name, n in counts.items()) or "none"


def plot(result: dict, path: Path) -> None:
    """Differences of the lowest energy, distances to the crystal's conformer, conformers/s."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    rows = result.get("speed_by_size", [])
    n_panels = 3 if rows else 2
    figure, axes = plt.subplots(1, n_panels, figsize=(5 * n_panels, 3.6), layout="constrained")
    energy, crystal = axes[:2]
    shades = {"1": "#a9cbf2", "5": "#6aa3e6", "20": "#2a78d6", "100": "#123d73"}
    for n, low in (result["many"]["lowest"] | result["hundred"]["lowest"]).items():
        own = result["many"]["lowest"].get(n, low)["differences"]
        energy.step(*shares(own), color=shades[n], label=f"lowest of {n}")
    energy.axvline(0, color=COLORS["etkdg"], linewidth=0.8)
    energy.set(xlim=(-8, 8), xlabel="card minus ETKDG, kcal/mol", ylabel="molecules, %",
               title="Lowest energy after relaxation")  # fmt: skip
    ligands = result["recovery"]["ligands"]
    for n in ligands["card"]:
        for name, style in (("etkdg", ":"), ("card", "-")):
            crystal.step(*shares(ligands[name][n]["nearest"]), style, color=shades[n],
                         label=f"nearest of {n}" if name == "card" else None)  # fmt: skip
    crystal.set(xlim=(0, 4), xlabel="RMSD, Å", ylabel="ligands, %",
                title="Crystal's conformer (dotted: ETKDG)")  # fmt: skip
    if rows:
        for n, shade in zip(sorted({row["each"] for row in rows}), shades.values(), strict=False):
            own = [row for row in rows if row["each"] == n]
            axes[2].loglog([row["size"] for row in own], [row["conformers_per_s"] for row in own],
                           "o-", color=shade, label=f"{n} a molecule")  # fmt: skip
        when = ", an earlier run" if result["speed_is_of_before"] else ""
        axes[2].set(xlabel="atoms up to", ylabel="conformers/s",
                    title=f"Speed on {result['machine']['device']}{when}")  # fmt: skip
        sizes = sorted({row["size"] for row in rows})
        axes[2].set_xticks(sizes, labels=[str(size) for size in sizes])
        axes[2].xaxis.minorticks_off()
    for axis in axes:
        axis.legend(frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def shares(values: list[float]) -> tuple[list[float], list[float]]:
    """Values in their order, and how many percent are no larger."""
    return sorted(values), [100 * (k + 1) / len(values) for k in range(len(values))]


if __name__ == "__main__":
    kept = Path(sys.argv[1] if len(sys.argv) > 1 else "benchmarks/results/embedding.json")
    numbers = json.loads(kept.read_text())
    kept.with_suffix(".md").write_text(markdown(numbers))
    plot(numbers, kept.with_suffix(".png"))
