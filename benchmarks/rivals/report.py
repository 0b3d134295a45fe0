"""The table and the plot."""

from pathlib import Path
from typing import Any

from benchmarks._harness import in_words
from benchmarks.rivals.bench import FMAX


def markdown(result: dict[str, Any]) -> str:
    """The table: what ran, and what did not."""
    about_it = in_words({k: v for k, v in result["environment"].items() if k != "commit"})
    lines = [
        "Made by `python benchmarks/rivals` from the JSON beside it.",
        "",
        f"{about_it}, {result['cores']} cores; {result['molecules']} molecules of "
        f"{result['mean_atoms']:.0f} atoms on average, to {FMAX} eV/Å.",
        "",
        "| way | conformers/s | conformers | converged | error, kcal/mol | commit |",
        "|---|---:|---:|---:|---:|---|",
    ]
    ran = [r for r in result["rows"] if "failed" not in r]
    for r in sorted(ran, key=lambda r: -r["conformers_per_s"]):
        rate = r["conformers_per_s"]
        cells = [
            r["row"],
            f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}",
            f"{r['n']:,}" + (f" of {r['asked']:,}" if r["n"] < r["asked"] else ""),
            "" if r["converged"] != r["converged"] else f"{r['converged']:.1%}",
            "" if r["mae"] is None else f"{r['mae']:.2f}",
            r["commit"],
        ]
        lines.append("| " + " | ".join(cells) + " |")
    if any(r["n"] < r["asked"] for r in ran):
        lines += ["", "Where not all ended, time was over: rate and share are of those that had."]
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
    figure, axes = plt.subplots(figsize=(10, 5), layout="constrained")
    axes.set(xscale="log", xlabel="conformers relaxed a second")
    axes.set_ylabel("error of conformers' energies, kcal/mol")
    axes.set_title(f"One {result['environment']['device']}, {result['cores']} cores")
    families = {"default": "tab:blue", "small": "tab:cyan", "AIMNet2": "tab:orange"}
    families |= {"MMFF94": "tab:green", "GFN2-xTB": "tab:red"}
    # Points of one model lie in a line and may be close: numbers above and below, names in a list.
    for k, r in enumerate(sorted(ran, key=lambda r: -r["conformers_per_s"]), 1):
        at = r["conformers_per_s"], r["mae"]
        color = families.get(r["row"].split()[0].rstrip(","), "black")
        axes.plot(*at, "o", color=color, label=f"{k}  {r['row']}")
        beside = (5, 5 if k % 2 else -12)
        axes.annotate(str(k), at, textcoords="offset points", xytext=beside, fontsize=9)
    axes.set_ylim(bottom=-0.08)
    axes.margins(x=0.1, y=0.1)
    axes.grid(alpha=0.3, which="both")
    figure.legend(loc="outside right upper", fontsize=8)
    figure.savefig(file, dpi=130)
