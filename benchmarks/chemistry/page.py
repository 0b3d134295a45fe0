"""The tables of docs/chemistry.md, from the files in benchmarks/results.

    python benchmarks/chemistry/page.py

Each stands between `<!-- name -->` and `<!-- end -->`; what it is made of, and the command that
measures it, stand beside it on the page.
"""

import json
import tomllib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/chemistry.md"
RESULTS = ROOT / "benchmarks/results"


def read(name: str) -> Any:
    """A file of results."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table whose first column is text and whose others are numbers."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, rule, *rows])


def protonation() -> str:
    """Right at pH 7.4, of known drugs and of measured pKa's."""
    found = read("protonation")
    names = {"mlff-screen": "this table", "as neutral": "all taken as neutral"}
    order = ["mlff-screen", *(n for n in found if n not in names), "as neutral"]
    drugs, measured = (found["mlff-screen"][key]["of"] for key in ("drugs", "measured"))
    return table(
        ["right at pH 7.4", f"{drugs} drugs, exact structure",
         f"{measured} molecules with one measured pKa, charges"],
        [
            [names.get(name, f"{name}, most likely state"), str(found[name]["drugs"]["right"]),
             f"{(right := found[name]['measured']['right'])} ({100 * right / measured:.0f} %)"]
            for name in order
        ],
    )  # fmt: skip


def sites() -> str:
    """How large the table of sites is, and how many of its values were held against others."""
    rows = tomllib.loads((ROOT / "mlff_core/chem/pka_sites.toml").read_text())
    found = read("pka_sources")
    within = round(found["values_compared"] * found["within_0.3_percent"] / 100)
    return (
        f"The table has {len(rows['site'])} kinds of sites and {len(rows['increment'])} increments "
        f"of what hangs beside them. Of the {found['values_named']} values that its rows name, "
        f"{found['values_compared']} were held against measured ones: {within} are within 0.3 "
        f"(`python benchmarks/chemistry/pka_sources.py`)."
    )


def variants() -> str:
    """Structures a record, and what it costs to list them."""
    found = read("variants")
    given, flat = found["datasets/druglike"], found["datasets/druglike, without stereo"]
    return table(
        ["", "structures a record", "records with several", "cut at 8", "ms a record, largest",
         "the same without any stereo given"],
        [
            [f"`{way}`", f"{own['structures_a_record']:.2f}",
             f"{own['records_with_several_percent']:g} %", f"{own['records_cut_percent']:g} %",
             f"{own['ms_a_record']:.0f}, {own['ms_largest']:.0f}",
             f"{bare['structures_a_record']:.2f} a record, {bare['records_cut_percent']:g} % cut, "
             f"{bare['ms_a_record']:.0f} ms, {bare['ms_largest']:.0f}"]
            for way, own in given.items()
            if way != "molecules"
            for bare in [flat[way]]
        ],
    )  # fmt: skip


def strain() -> str:
    """Strain of ligands as crystal structures have them, quartiles."""
    found = read("strain")
    rows = {row["row"]: row for row in found["rows"]}
    names = {
        "strain_h_only_kcal_mol": "hydrogens relaxed, kcal/mol",
        "strain_restrained_kcal_mol": "**within the flat bottom**",
        "strain_local_kcal_mol": "relaxed freely",
        "rmsd_restrained_angstrom": "moved within the flat bottom, Å",
        "rmsd_local_angstrom": "moved freely",
        "n_search_conformers": "conformers of the search",
    }
    every = rows["all"]
    by = ", ".join(f"{n} by {name.replace('_', ' ')}" for name, n in every["found_by"].items())
    left_out = ", ".join(f"{n} {name}" for name, n in every["reason"].items())
    return (
        table(
            ["", "25 %", "median", "75 %", "90 %", "most"],
            [
                [title, *(f"{rows[key][q]:.{0 if key.startswith('n_') else 1 + ('rmsd' in key)}f}"
                          for q in ("25", "median", "75", "90", "most"))]
                for key, title in names.items()
            ],
        )
        + f"\n\n{every['n']} poses, {every['status']['ok']} of them computed ({left_out}), "
        f"{every['s']:.0f} s on one {found['device']}; the lowest minimum was found {by}."
    )  # fmt: skip


def poses() -> str:
    """How many ligands have a conformer near the crystal's, by rotatable bonds."""
    found = read("poses")
    most = max(found.values(), key=lambda run: run["conformers"])
    counts = list(most["groups"][-1]["within_1_percent"])

    def title(group: dict[str, Any]) -> str:
        low, high = group["rotatable_bonds"]
        bonds = "all" if (low, high) == (0, 99) else f"{low} or more" if high == 99 else ""
        return f"{bonds or f'{low} to {high}'} ({group['ligands']} ligands)"

    rows = [
        [title(group), *(
            f"{near['before']:.0f}, {near['after']:.0f}"
            for near in group["within_1_percent"].values()
        )]
        for group in most["groups"]
    ]  # fmt: skip
    said = [
        f"{near['after']:.0f} % with `--preset {run['preset']}`"
        for run in found.values()
        if run["preset"]
        for near in [run["groups"][-1]["within_1_percent"][str(run["conformers"])]]
    ]
    return (
        table(["rotatable bonds", *(f"{n} conformer{'s' * (n != '1')}" for n in counts)], rows)
        + f"\n\nPer cent as embedded by RDKit, and relaxed in vacuum with {most['model']} to "
        f"{most['fmax']:g} eV/Å. Of all, {', '.join(said)}."
    )


def thermo() -> str:
    """What thermochemistry costs on a card, and how exact it is."""
    rows = {row["part"]: row for row in read("thermo")["rows"]}
    relax, hessians, exact = rows["relax"], rows["hessians"], rows["against float64"]
    return table(
        ["", ""],
        [
            ["molecules, atoms on average", f"{relax['n']}, {relax['n_atoms_mean']:.0f}"],
            ["relaxation to 0.01 eV/Å, in a process that compiles", f"{relax['s']:.0f} s"],
            ["Hessians", f"{hessians['s']:.1f} s ({hessians['a_minute']:,.0f} a minute)"],
            [f"vibrations, {rows['vibrations']['threads']} threads",
             f"{rows['vibrations']['s']:.1f} s"],
            ["the rest", f"{rows['thermochemistry']['s']:.1f} s"],
            ["minima with imaginary modes beyond 20i cm⁻¹, before they are relaxed on",
             f"{rows['vibrations']['with_imaginary']}"],
            [f"largest error of a wavenumber against float64, {exact['n']} molecules",
             f"{exact['off_max_per_cm']:.2f} cm⁻¹"],
            ["the same of a Gibbs energy", f"{exact['gibbs_off_max_kcal_mol']:.2f} kcal/mol"],
        ],
    )  # fmt: skip


def trust() -> str:
    """Shares of molecules with a flag."""
    found = read("trust")

    def row(title: str, key: str, *, all_of_it: bool = True) -> list[str]:
        own = found[key]
        unusual = f"{100 * own['rare_elements_and_zwitterions'] / own['n']:.1f} %"
        others = f"{own['flagged_percent_without_these']:.1f} %"
        ends = [unusual, others] if all_of_it else ["", ""]
        return [title, f"{own['n']:,}", f"{own['flagged_percent']:.1f} %", *ends]

    n_worst = sum(bool(one["flags"]) for one in found["worst"])
    return table(
        ["", "molecules", "flagged", "has a rare element or is a zwitterion",
         "flagged among the others"],
        [
            row("**ordinary**: at random from libraries, by connectivity in no training",
                "held_out"),
            row("`datasets/druglike`, chosen to hold rare elements and zwitterions", "druglike"),
            row("a protonation state at random of the first", "random_protonation_states",
                all_of_it=False),
            ["the ten of the model card", str(len(found["worst"])), f"{n_worst}", "", ""],
        ],
    )  # fmt: skip


def solvation() -> str:
    """Two models of water against measured hydration free energies."""
    neutral = read("solvation")["neutral"]
    tools = [name for name in neutral if name != "n"]
    return table(
        [f"{neutral['n']} neutral molecules of FreeSolv, kcal/mol", "MAE", "RMSE", "mean error",
         "Spearman", "core-s a geometry"],
        [
            [name, *(f"{neutral[name][key]:.2f}" for key in
                     ("mae", "rmse", "mean_error", "spearman", "core_s_a_geometry"))]
            for name in tools
        ],
    )  # fmt: skip


def charged() -> str:
    """What two models of water do to the order of conformers."""
    found = read("solvation")["charged"]
    rows = []
    for name, own in found.items():
        tools = [own[key] for key in own if isinstance(own[key], dict)]
        charge = f"{own['charge']:+d}" if own["charge"] else "0"

        def both(key: str, digits: int, tools: list[dict] = tools) -> str:
            return " / ".join(f"{tool[key]:.{digits}f}" for tool in tools)

        rows.append(
            [f"{name} ({charge})", f"{own['conformers']}", both("spearman_with_vacuum", 2),
             both("lowest_in_vacuum_lies", 1), both("spread", 0), f"{own['spearman_of_both']:.2f}"]
        )  # fmt: skip
    return table(
        ["ALPB / anysolv", "conformers", "order in vacuum and in water, Spearman",
         "the lowest in vacuum lies in water, kcal/mol", "solvation differs by",
         "both orders in water"],
        rows,
    )  # fmt: skip


def zwitterions() -> str:
    """What becomes of zwitterions in vacuum, free and held."""
    found = read("zwitterions")
    middle, least, most = found["kcal_mol_above_the_moved_proton_median_min_max"]
    free, held = found["steps_median_free_and_held"]
    return table(
        ["", ""],
        [
            ["embedded", f"{found['embedded']}"],
            ["converged, relaxed freely", f"{found['free']['converged']}"],
            ["lost the proton of a charged group, and were relaxed again, held",
             f"{found['relaxed_again']}"],
            ["of these converged", f"{found['converged_held']}"],
            ["of these without any spring at the end",
             f"{found['of_these_without_any_spring_at_the_end']}"],
            ["converged in the end", f"{found['held']['converged']}"],
            ["the given state above the one with the proton moved, kcal/mol: median, range",
             f"{middle:.0f}, {least:.0f} to {most:.0f}"],
            ["steps, median, free and held", f"{free:.0f}, {held:.0f}"],
        ],
    )  # fmt: skip


def presets() -> str:
    """What each preset costs, and how near to the lowest minimum it comes."""
    lines = (RESULTS / "presets.md").read_text().splitlines()
    return "\n".join(lines[lines.index("") + 1 :])


TABLES: dict[str, Callable[[], str]] = {
    "sites": sites,
    "protonation": protonation,
    "variants": variants,
    "strain": strain,
    "poses": poses,
    "thermo": thermo,
    "trust": trust,
    "solvation": solvation,
    "charged": charged,
    "zwitterions": zwitterions,
    "presets": presets,
}


def rendered(text: str) -> str:
    """The page with its tables made anew."""
    for name, make in TABLES.items():
        before, begin, rest = text.partition(f"<!-- {name} -->\n")
        old, end, after = rest.partition("<!-- end -->")
        assert begin, f"{PAGE.name} has no place for {name}"
        assert "<!--" not in old, name
        text = f"{before}{begin}{make()}\n{end}{after}"
    return text


if __name__ == "__main__":
    PAGE.write_text(rendered(PAGE.read_text()))
