"""Results as Markdown and as a plot."""

from pathlib import Path
from typing import Any

from _harness import in_words

Row = dict[str, Any]


def markdown(result: dict[str, Any]) -> str:
    """The tables, one model after the other."""
    about = result["environment"]
    lines = [
        "Made by `python benchmarks/engine` from the JSON beside it.",
        "",
        in_words(about) + ".",
        "",
        "| the device itself | |",
        "|---|---|",
        *(f"| {k.replace('_', ' ')} | {v:.3g} |" for k, v in result["ceilings"].items()),
    ]
    for name, shape in result["models"].items():
        found = [r for r in result["rows"] if r.get("model") == name]
        lines += ["", f"## {name}: {shape}", "", *_model(found, result["ceilings"])]
    others = [r for r in result["rows"] if "model" not in r]
    if others:
        lines += ["", "## Beside them", "", *_scaling(others)]
    return "\n".join(lines)


def _model(rows: list[Row], ceilings: dict[str, float]) -> list[str]:
    operators = [r for r in rows if r["row"].startswith("operator: ")]
    kernels = [r for r in rows if r["row"].startswith("kernel: ")]
    streams = [r for r in rows if "serial_us_per_molecule" in r]
    steps = [r for r in rows if r not in operators and r not in streams and r not in kernels]
    lines = _scaling(steps) if steps else []
    if operators:
        lines += [
            "",
            f"| operator, {operators[0]['n_mols']} molecules | µs | spread | plain PyTorch, µs | "
            "TFLOP/s | TB/s | relative error |",
            "|---|---|---|---|---|---|---|",
        ]
    for r in operators:
        name = r["row"].removeprefix("operator: ")
        if "failed" in r:
            lines.append(f"| {name} | {r['failed']} | | | | | |")
            continue
        lines.append(
            f"| {name} | {r['us']:.0f} | {r['spread_us']:.1f} | {r['plain_us']:.0f} | "
            f"{r['flop_per_s'] / 1e12:.3g} | {r['bytes_per_s'] / 1e12:.3g} | "
            f"{r['relative_error']:.1e} |"
        )
    lines += _kernels(kernels, ceilings)
    for r in streams:
        lines += [
            "",
            f"{r['row'].capitalize()}, {r['n_mols']} molecules a batch: "
            f"{r['serial_us_per_molecule']:.3g} µs a molecule one after the other, "
            f"{r['overlapped_us_per_molecule']:.3g} with copies overlapped.",
        ]
    return lines


def _kernels(rows: list[Row], ceilings: dict[str, float]) -> list[str]:
    """A table of kernels for each precision and number of molecules."""
    lines: list[str] = []
    for precision, n_mols in dict.fromkeys((r["precision"], r["n_mols"]) for r in rows):
        mine = [r for r in rows if (r["precision"], r["n_mols"]) == (precision, n_mols)]
        lines += [
            "",
            f"| kernel, `{precision}`, molecules: {n_mols} | µs of a step | share | TFLOP/s | "
            "of the unit's | TB/s | of the memory's |",
            "|---|---|---|---|---|---|---|",
        ]
        for r in mine:
            name = r["row"].removeprefix("kernel: ")
            if r.get("share", 1.0) < 0.001:  # What is left over where all others are listed.
                continue
            if "failed" in r:
                lines.append(f"| {name} | {r['failed']} | | | | | |")
                continue
            line = f"| {name} | {r['us']:.1f} | {r['share']:.1%} |"
            if "flop_per_s" in r:
                unit = {"matrix units": "bf16", "float32": "float32"}[r["unit"]]
                line += (
                    f" {r['flop_per_s'] / 1e12:.3g} | "
                    f"{r['flop_per_s'] / ceilings[f'{unit}_flop_per_s']:.0%} | "
                    f"{r['bytes_per_s'] / 1e12:.3g} | "
                    f"{r['bytes_per_s'] / ceilings['copy_bytes_per_s']:.0%} |"
                )
            else:
                line += " | | | |"
            lines.append(line)
    return lines


def _scaling(rows: list[Row]) -> list[str]:
    """Times, memory and errors by batch size."""
    sizes = sorted({r["n_mols"] for r in rows if "n_mols" in r})
    names = list(dict.fromkeys(r["row"] for r in rows))
    by_row = {name: {r.get("n_mols"): r for r in rows if r["row"] == name} for name in names}
    lines = [
        "| µs a molecule, by molecules a batch | " + " | ".join(map(str, sizes)) + " |",
        "|---|" + "---|" * len(sizes),
    ]
    for name, found in by_row.items():
        cells = []
        for n in sizes:
            r = found.get(n, {})
            cells.append(f"{r['us_per_molecule']:.4g}" if "us" in r else "fails" * ("failed" in r))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    for name, found in by_row.items():
        reasons = sorted({r["failed"][:120] for r in found.values() if "failed" in r})
        lines += [line for text in reasons for line in ("", f"{name} fails: {text}")]
    if any("memory_gib" in r for r in rows):
        lines += ["", "| GiB at the peak | " + " | ".join(map(str, sizes)) + " |"]
        lines.append("|---|" + "---|" * len(sizes))
        for name, found in by_row.items():
            cells = [
                f"{found[n]['memory_gib']:.2f}" if "memory_gib" in found.get(n, {}) else ""
                for n in sizes
            ]
            lines += [f"| {name} | " + " | ".join(cells) + " |"] if any(cells) else []
    compared = [r for r in rows if "energy_error_ev" in r]
    if compared:
        lines += ["", "| largest error against float64 | energy, eV | forces, eV/Å |"]
        lines.append("|---|---|---|")
    for name in dict.fromkeys(r["row"] for r in compared):
        mine = [r for r in compared if r["row"] == name]
        energy = max(r["energy_error_ev"] for r in mine)
        force = max(r["force_error_ev_per_angstrom"] for r in mine)
        lines.append(f"| {name} | {energy:.1e} | {force:.1e} |")
    return lines


def plot(result: dict[str, Any], file: Path) -> None:
    """µs a molecule against molecules a batch, a panel for each model."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    models = list(result["models"])
    figure, panels = plt.subplots(
        1, len(models), figsize=(6 * len(models), 4.5), layout="constrained", squeeze=False
    )
    for axes, model in zip(panels[0], models, strict=True):
        rows = [r for r in result["rows"] if r.get("model") == model and "us_per_molecule" in r]
        for name in dict.fromkeys(r["row"] for r in rows):
            points = sorted((r["n_mols"], r["us_per_molecule"]) for r in rows if r["row"] == name)
            style = "--" if name.endswith("as called") else "-"
            axes.plot(*zip(*points, strict=True), style, marker="o", markersize=3, label=name)
        axes.set(xscale="log", yscale="log", xlabel="molecules a batch (40 atoms each)")
        axes.set_ylabel("energy + forces, µs a molecule")
        axes.set_title(f"{model}: {result['models'][model]}, {result['environment']['device']}")
        axes.grid(alpha=0.3, which="both")
        if rows:
            axes.legend(fontsize=8)
    figure.savefig(file, dpi=130)
