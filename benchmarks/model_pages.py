"""Sections of a model's card about its charges and its smallest molecules, and the pages beside it.

`benchmarks/model_card.py` puts them together; no number in them is typed by hand.
"""

from typing import Any

from mlff_core.elements import SYMBOLS

Results = dict[str, Any]

#: Å within which a bond of a small molecule should be where the teacher has it.
BOND_BOUND = 0.02


def rows_of_markdown(head: str, align: str, rows: list[list[str]]) -> list[str]:
    """A table in Markdown; `align` has l or r for each column."""
    rule = {"l": "---", "r": "---:"}
    lines = [f"| {head} |", "|" + "|".join(rule[a] for a in align) + "|"]
    return [*lines, *("| " + " | ".join(row) + " |" for row in rows), ""]


def charges(part: Results, where: str, *, beside: bool) -> list[str]:
    """Partial charges and dipole moments; `beside` is what reads them, if not the model itself."""
    of_its_own = (
        "They are read from the features, by a file beside the model, and change no energy."
    )
    return [
        "## Partial charges",
        "",
        "What `--charges` and `get_charges` give, against the teacher's on held-out molecules, "
        f"on {where}. {of_its_own + ' ' if beside else ''}Must: 0.01 e and 0.15 D.",
        "",
        *rows_of_markdown(
            "| geometries | charges, MAE, e | dipole moment, MAE, D",
            "lrrr",
            [
                [name, f"{part[name]['n_geometries']:,}", f"{part[name]['charge_mae_e']:.4f}",
                 f"{part[name]['dipole_mae_debye']:.2f}"]
                for name in ("all", "neutral", "charged")
            ],
        ),
        *charges_of_members(part),
    ]  # fmt: skip


def charges_of_members(part: Results) -> list[str]:
    """How far the teacher's members are apart, where that was measured."""
    if "members" not in part["all"]:
        return []
    of = {name: part[name]["members"] for name in ("neutral", "charged")}

    def both(name: str, digits: int) -> str:
        return " and ".join(f"{members[name]:.{digits}f}" for members in of.values())

    return [
        f"One of the teacher's networks is {both('charge_mae_e', 4)} e and "
        f"{both('dipole_mae_debye', 2)} D from the mean of the others (neutral and charged "
        "molecules). The standard error of the mean of all is "
        f"{both('dipole_standard_error_debye', 2)} D: so much of a dipole moment is chance in "
        "their training.",
        "",
    ]


def rare(part: Results, where: str) -> list[str]:
    """What the training hardly saw, beside all else."""
    names = {"none": "no flag", "any": "a flag"}
    return [
        "## What the training hardly saw",
        "",
        "Held-out molecules with something that few molecules of the training's table have, by the "
        f"flags of a screen, and without, measured on {where}.",
        "",
        *rows_of_markdown(
            "| molecules | force MAE / RMSE, meV/Å | energy within a molecule, kcal/mol "
            "| between molecules, median | 90 %",
            "lrrrrr",
            [
                [names.get(name, f"`{name}`"), f"{g['n_molecules']:,.0f}",
                 f"{g['force_mae']:.1f} / {g['force_rmse']:.1f}", f"{g['energy_mae']:.2f}",
                 f"{g['between_median']:.2f}", f"{g['between_90_percent']:.1f}"]
                for name, g in part["groups"].items()
            ],
        ),
    ]  # fmt: skip


def environments(part: Results, where: str) -> list[str]:
    """Folds of held-out molecules by how often the table has the surroundings of their atoms."""

    def bounds(fold: Results) -> str:
        first, below = fold["from"], fold["below"]
        return f"{first:,} or more" if below is None else f"{first:,} to {below - 1:,}"

    return [
        "## Rare surroundings",
        "",
        "Held-out molecules by the rarest surroundings of their atoms (an atom's element, "
        "hydrogens, charge and bonds, and its neighbours'): how many molecules of the training's "
        "table have the same. The last column is of the forces on atoms with such surroundings "
        f"alone, wherever they are. Measured on {where}.",
        "",
        *rows_of_markdown(
            "molecules of the table | held-out molecules | force MAE / RMSE, meV/Å "
            "| energy within a molecule, kcal/mol | between molecules, median | 90 % "
            "| forces on these atoms, MAE / RMSE",
            "lrrrrrr",
            [
                [bounds(f), f"{f['n_molecules']:,.0f}",
                 f"{f['force_mae']:.1f} / {f['force_rmse']:.1f}", f"{f['energy_mae']:.2f}",
                 f"{f['between_median']:.2f}", f"{f['between_90_percent']:.1f}",
                 f"{f['atom_force_mae']:.1f} / {f['atom_force_rmse']:.1f}"]
                for f in part["folds"]
            ],
        ),
    ]  # fmt: skip


def few_atoms(part: Results, where: str) -> list[str]:
    """Bonds of small and of hypervalent molecules."""
    found = part["molecules"]
    off = sorted(
        (m for m in found if m["largest_error_angstrom"] > BOND_BOUND),
        key=lambda m: -m["largest_error_angstrom"],
    )
    return [
        "## Small and hypervalent molecules",
        "",
        f"{len(found)} molecules relaxed by both from the same start, on {where}: the largest "
        f"difference of a bond's length. {len(found) - len(off)} are within {BOND_BOUND} Å"
        + ("; the others:" if off else "."),
        "",
        *(few_atoms_off(off) if off else []),
    ]


def few_atoms_off(off: list[Results]) -> list[str]:
    """Those whose bonds are elsewhere than the teacher's."""
    return rows_of_markdown(
        "SMILES | largest difference, Å | the student",
        "lrl",
        [[f"`{m['smiles']}`", f"{m['largest_error_angstrom']:.2f}", m["status"][0]] for m in off],
    )


def other_bonds(part: Results, where: str) -> list[str]:
    """Molecules that a relaxation brings to other bonds."""
    ours = [m["smiles"] for m in part["rearranged"] if not m["teacher_too"]]
    too = len(part["rearranged"]) - len(ours)
    return [
        "## Bonds that change",
        "",
        f"Of {part['n_molecules']:,} held-out molecules, relaxed to 0.05 eV/Å from embedded "
        f"geometries on {where}, {part['n_converged']:,} came to a minimum, {too} of them to other "
        f"bonds as the teacher brings them to from the same start, and {len(ours)} where the "
        "teacher does not" + (": " + ", ".join(f"`{text}`" for text in ours) if ours else "") + ".",
        "",
    ]


def torsions(part: Results, where: str) -> list[str]:
    """Profiles along scans of one torsion of each molecule."""
    return [
        "## Torsion profiles",
        "",
        f"One bond of each held-out molecule turned in {part['n_angles']} steps, measured on "
        f"{where}. At each angle a member of the teacher relaxed all else; the student's energies "
        "there against the teacher's, the mean of a profile taken off. Points more than "
        f"{part['most_kcal_mol']:g} kcal/mol above the lowest, where atoms clash, are left out.",
        "",
        *rows_of_markdown(
            "| profiles | points | energy MAE / RMSE, kcal/mol | highest point, median, kcal/mol",
            "lrrrr",
            [
                [name, f"{row['n_molecules']:,}", f"{row['n_points']:,}",
                 f"{row['energy_mae_kcal_mol']:.2f} / {row['energy_rmse_kcal_mol']:.2f}",
                 f"{row['highest_median_kcal_mol']:.1f}"]
                for name, row in part["rows"].items()
            ],
        ),
        "The largest errors: "
        + ", ".join(
            f"`{m['smiles']}` ({m['largest_error_kcal_mol']:.1f})" for m in part["worst"][:5]
        )
        + ".",
        "",
    ]  # fmt: skip


def not_for(name: str, results: Results, *, coulomb: bool = False) -> str:
    """The page that says what a model must not be used for.

    Args:
        name: Of the model.
        results: Of `benchmarks/accuracy`.
        coulomb: Whether its charges have an energy at any distance.
    """
    teacher = results["teacher"]
    usual = teacher["all"]["force_mae"]
    elements = [
        SYMBOLS[int(z)]
        for z, v in sorted(teacher["by_element"].items(), key=lambda e: -e[1]["force_mae"])
        if v["force_mae"] > 2 * usual
    ]
    strange = teacher.get("charged_unusually")
    lines = [
        f"# Do not use {name} for",
        "",
        "Written by `benchmarks/model_card.py` from what the [card](model_card.md) was measured "
        "with. What is here goes wrong without a sign of it in the energy; a screen's flags name "
        "some of it.",
        "",
        "- **Anything but closed shells in vacuum**: radicals, metals, excited states, solvents, "
        "two molecules beside each other. They are refused where the input shows them.",
        "- **Reactions.** Bonds hold as long as they are near their length; beyond, no energy "
        "means anything, and a barrier least of all.",
    ]
    if "protomers" in results:
        part = results["protomers"]
        every = part["groups"]["all"]
        share = 100 * every["n_far_off"] / every["n"]
        lines.append(
            f"- **Comparing protonation states, pKa.** Of {every['n']} states chosen at random "
            f"{share:.2g} % are off by more than {part['far_off_kcal_mol']:g} kcal/mol."
        )
        if (both := part["groups"].get("groups of both signs, more")) is not None:
            lines.append(
                "- **Zwitterions with several groups of one sign**: 90 % of "
                f"{both['n']} are within {both['90_percent']:.0f} kcal/mol, the largest error is "
                f"{both['largest']:.0f}."
            )
    if strange is not None:
        lines.append(
            "- **Charge on sp2 nitrogen, S+, O+, N-, S- or C-** (dyes, azolides, sulfonamidates): "
            f"forces off by {strange['force_mae']:.0f} / {strange['force_rmse']:.0f} meV/Å "
            f"(MAE / RMSE; all molecules {usual:.0f} / {teacher['all']['force_rmse']:.0f})."
        )
    if elements:
        lines.append(
            f"- **Fine differences about {', '.join(elements)}**: force errors more than twice "
            "those of all atoms."
        )
    if "few_atoms" in results:
        off = [
            m for m in results["few_atoms"]["molecules"] if m["largest_error_angstrom"] > BOND_BOUND
        ]
        worst = sorted(off, key=lambda m: -m["largest_error_angstrom"])[:8]
        if worst:
            lines.append(
                f"- **Molecules of few atoms, and hypervalent ones**: of "
                f"{len(results['few_atoms']['molecules'])} tried {len(off)} have a bond that is "
                f"off by more than {BOND_BOUND} Å, "
                + ", ".join(f"`{m['smiles']}`" for m in worst)
                + " most of all."
            )
    if "far" in results and not coulomb:
        lines.append(
            "- **Charges far apart in one molecule**: the student hears of an atom beyond 15 Å not "
            "at all."
        )
    if "charges" in results:
        part = results["charges"]["all"]
        lines.append(
            f"- **Dipole moments as numbers**: off by {part['dipole_mae_debye']:.1f} D on average."
        )
    return "\n".join(lines) + "\n"
