"""The table and the plot."""

from pathlib import Path
from typing import Any

from benchmarks.rivals.bench import FMAX


def markdown(result: dict[str, Any]) -> str:
    """The table: what ran, and what did not."""
    about_it = ", ".join(f"{k} {v}" for k, v in result["environment"].items())
    lines = [
        "Made by `python benchmarks/rivals` from the JSON beside it.",
        "",
        f"{about_it}, {result['cores']} cores; {result['molecules']} molecules of "
        f"{result['mean_atoms']:.0f} atoms on average, to {FMAX} eV/Å.",
        "",
        "| way | conformers/s | conformers | converged | error, kcal/mol |",
        "|---|---:|---:|---:|---:|",
    ]
    ran = [r for r in result["rows"] if "failed" not in r]
    for r in sorted(ran, key=lambda r: -r["conformers_per_s"]):
        rate = r["conformers_per_s"]
        cells = [
            r["row"],
            f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}",
            f"{r['n']:,}",
            "" if r["converged"] != r["converged"] else f"{r['converged']:.1%}",
            "" if r["mae"] is None else f"{r['mae']:.2f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    failed = [r for r in result["rows"] if "failed" in r]
    if failed:
        lines += ["", "| did not run | reason |", "|---|---|"]
        lines += [f"| {r['row']} | {r['failed']} |" for r in failed]
    return "\n".join(lines)


def plot(result: dict[str, Any], file: Path) -> None:
    """Conformers a second against the error, each way a point."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    ran = [r for r in result["rows"] if r.get("mae") is not None]
    figure, axes = plt.subplots(figsize=(9, 5.5), layout="constrained")
    axes.set(
        xscale="log",
        xlabel="conformers relaxed a second",
        ylabel="error of conformers' energies, kcal/mol",
    )
    axes.set_title(f"One {result['environment']['device']}, {result['cores']} cores")
    families = {
        "default": "tab:blue",
        "small": "tab:cyan",
        "AIMNet2": "tab:orange",
        "MMFF94": "tab:green",
    }
    # Those of one error stand in one line: their names take turns above and below it.
    ran.sort(key=lambda r: (round(r["mae"], 1), r["conformers_per_s"]))
    for k, r in enumerate(ran):
        family = r["row"].split()[0].rstrip(",")
        axes.plot(r["conformers_per_s"], r["mae"], "o", color=families.get(family, "tab:red"))
        axes.annotate(
            r["row"],
            (r["conformers_per_s"], r["mae"]),
            textcoords="offset points",
            xytext=(0, 9 + 11 * (k % 3)) if k % 2 else (0, -16 - 11 * (k % 3)),
            ha="center",
            fontsize=7,
        )
    axes.set_ylim(bottom=-0.4)
    axes.margins(x=0.15, y=0.15)
    axes.grid(alpha=0.3, which="both")
    figure.savefig(file, dpi=130)
