"""Write a shipped model's card with its pictures, and the headline in the checkpoint's JSON.

    python benchmarks/model_card.py [--model small] [PART.json ...]

The default model's card is docs/model_card.md, another's docs/MODEL/model_card.md; beside it lie
training.md and not_for.md, what not to use it for. Parts are what
the commands of `benchmarks/accuracy` wrote, in any number of files; they are put together in
benchmarks/results/accuracy.json, or accuracy_MODEL.json, which is read if none is given. All must
be about the shipped weights. No number in the card is typed by hand.
"""

import argparse
import itertools
import json
import re
import sys
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from benchmarks._harness import RESULTS, ROOT
from benchmarks.model_pages import (
    charges,
    environments,
    few_atoms,
    not_for,
    other_bonds,
    rare,
    torsions,
)
from benchmarks.model_pages import rows_of_markdown as table
from mlff_core.distill.training_log import read_training_log
from mlff_core.elements import SYMBOLS
from mlff_core.models.checkpoint import read_checkpoint
from mlff_core.models.painn import PaiNN
from mlff_core.models.reference import find_model

#: For how long no molecule must break.
NVE_PS = 100
KINDS = {
    "path": "on the way from an embedded geometry to the minimum",
    "minimum": "at and around minima",
    "hot": "snapshots at 300 to 1000 K",
    "distorted": "displaced, strained and twisted",
}

Results = dict[str, Any]


# --- Tables ---------------------------------------------------------------------------------------


def signed(charge: int) -> str:
    """A charge with its sign; 0 has none."""
    return f"{charge:+d}" if charge else "0"


def symbol(atomic_number: int | str) -> str:
    """Of an element."""
    return SYMBOLS[int(atomic_number)]


def device(part: Results) -> str:
    """Where a part was measured, in words."""
    name = part["device"]
    if name == "CPU":
        return "a CPU"
    # Some names end in the size and the kind of memory.
    return "one " + re.sub(r" \d+GB.*", "", name.removeprefix("NVIDIA "))


def _charges(config: Results) -> str:
    """What the network does with partial charges, as one of the things that it has."""
    if not config.get("charges_after"):
        return ""
    does = [
        *(["fed back"] if config["charge_feedback"] else []),
        *(["with their Coulomb energy"] if config["coulomb"] else []),
    ]
    after = f"partial charges that add up to it, read after block {config['charges_after']}"
    return ", ".join([after, " and ".join(does)] if does else [after]) + ", "


def what_it_is(results: Results, checkpoint: Results, network: PaiNN) -> list[str]:
    """Shape, domain and checksums."""
    config = checkpoint["config"]
    n_parameters = sum(parameter.numel() for parameter in network.parameters())
    return [
        "## What it is",
        "",
        f"PaiNN, {config['n_features']} features, {config['n_interactions']} blocks, "
        f"{config['n_rbf']} radial functions, cutoff {config['cutoff']} Å, {n_parameters:,} "
        f"parameters, total charge as an input, {_charges(config)}and a short-range repulsion; the "
        "network sees no pair nearer than 0.6 Å. Distilled from AIMNet2 (ωB97M-D3; the mean of its "
        "four members). Molecules in vacuum, closed shells.",
        "",
        f"- elements: {' '.join(symbol(z) for z in config['elements'])}",
        f"- total charge: {signed(config['min_charge'])} to {signed(config['max_charge'])}; "
        "others are refused",
        f"- sha256: `{checkpoint['sha256']}`",
        f"- teacher's sha256: `{results['teacher']['teacher_sha256']}`",
        "- molecules: drug-like SMILES of public collections (ChEMBL, ZINC, USPTO, MOSES, PubChem "
        "and others), about a quarter charged, split by the connectivity layer of their InChIKeys",
        "- geometries: ETKDGv3 conformers, points of their relaxation, minima, snapshots at 300 to "
        "1200 K, and displaced, strained and twisted ones; those on which the teacher's members "
        "disagree are left out",
        "",
        "It is made for screening: relaxing conformers of drug-like molecules from rough "
        "geometries, ranking them, and dynamics around room temperature. It knows nothing of "
        "radicals, metals, reactions, solvents, or of two molecules beside each other.",
        "",
    ]


def stages_of(checkpoint: Results) -> list[Results]:
    """The stages of training that led to the weights, in order."""
    return checkpoint["stages"]


def averaged_stages(checkpoint: Results) -> int:
    """The mean of how many weights these are; cards had another name for it before."""
    return checkpoint.get("averaged_stages", checkpoint.get("averaged_legs", 1))


def checks_of(stage: Results) -> list[Results]:
    """Points of a stage's learning curve at which held-out molecules were compared."""
    return [point for point in stage.get("curve", []) if "energy_mae" in point]


def training(checkpoint: Results) -> list[str]:
    """The stages."""
    rows, from_means, faded = [], [], []
    for number, stage in enumerate(stages_of(checkpoint), 1):
        checks = checks_of(stage)
        if stage.get("configs", {}).get("training", {}).get("total_fades"):
            faded.append(str(number))
        after = "", "", "", ""
        if checks:
            last = checks[-1]
            after = tuple(
                f"{last[key]:.{digits}f}"
                for key, digits in (
                    ("rms_force", 2),
                    ("force_mae", 0),
                    ("force_rmse", 0),
                    ("energy_mae", 2),
                )
            )
        if (mean_of := stage.get("starts_from_mean_of", 1)) > 1:
            from_means.append(f"stage {number} from the mean of the {mean_of} before")
        rows.append(
            [
                str(number),
                f"{stage['n_parameters']:,}",
                str(stage.get("n_devices", 1)),
                f"{stage['seconds']:.0f}",
                f"{stage['samples']:,}",
                f"{stage['molecules_embedded']:,}",
                *after,
            ]
        )
    return [
        f"# How {checkpoint['name']} was trained",
        "",
        "In stages, each from where the one before ended"
        + (f" ({', '.join(from_means)})" if from_means else "")
        + "; molecules are embedded and labelled beside the training. Where there are more "
        "parameters than in the stage before, the weights grew (`mlff_core/distill/growth.py`). "
        + (
            f"What is shipped is the mean of the weights of the last {averaged} stages. "
            if (averaged := averaged_stages(checkpoint)) > 1
            else ""
        )
        + "Errors are those of the last validation on a few hundred held-out "
        "molecules, shortly before the stage ended; how much their geometries are distorted, and "
        "so how large these errors are, shows in their rms force. A stage that was cut off counts "
        "up to the weights that it left. Errors jump where the geometries or the form changed: the "
        "sixth stage took two kinks out of the surface, for the sake of dynamics."
        + (
            f" In stages {', '.join(faded)} the total charge told atoms less and less, and then "
            "nothing but through their partial charges; errors there are of neutral molecules."
            if faded
            else ""
        ),
        "",
        *table(
            "stage | parameters | GPUs | seconds | samples | molecules embedded | rms force, eV/Å "
            "| force MAE, meV/Å | force RMSE, meV/Å | energy within a molecule, MAE, kcal/mol",
            "rrrrrrrrrr",
            rows,
        ),
        "![Errors on held-out molecules against samples](model_card_learning.png)",
        "",
    ]


def against_teacher(part: Results) -> list[str]:
    """Forces and energies of held-out molecules."""

    def row(name: str, values: Results) -> list[str]:
        return [
            name,
            f"{values['n_molecules']:,.0f}",
            f"{values['n_geometries']:,.0f}",
            f"{values['rms_force']:.2f}",
            f"{values['force_mae']:.1f}",
            f"{values['force_rmse']:.1f}",
            # Where each molecule has one geometry, there is nothing to compare.
            "" if values["energy_mae"] is None else f"{values['energy_mae']:.2f}",
        ]

    left_out = ", ".join(
        f"{n:,} {why.replace('_', ' ')}" for why, n in part["labels"].items() if why != "labels"
    )
    by_charge = sorted(part["by_charge"].items(), key=lambda item: int(item[0]))
    by_element = sorted(part["by_element"].items(), key=lambda item: int(item[0]))
    return [
        "## Held-out molecules, against the teacher",
        "",
        f"{part['n_embedded']:,} molecules that share no connectivity with any that was trained "
        f"on, embedded conformers of each: {part['n_conformers']}, measured on {device(part)}: "
        f"{part.get('driven_by', 'the student')} relaxed, heated and distorted them, the teacher "
        "labelled where they went. "
        "Energies are compared within one molecule, its mean taken off.",
        "",
        *table(
            "| molecules | geometries | rms force, eV/Å | force MAE, meV/Å | force RMSE, meV/Å "
            "| energy within a molecule, MAE, kcal/mol",
            "lrrrrrr",
            [
                row("all", part["all"]),
                row("neutral", part["neutral"]),
                row("charged", part["charged"]),
                *(
                    row(text, part[group])
                    for group, text in (
                        ("charged_unusually", "charged, on sp2 N, S+, O+, N-, S- or C-"),
                        ("charged_otherwise", "charged otherwise"),
                    )
                    if part.get(group, {}).get("n_geometries")
                ),
                row("distorted and hot", part["distorted"]),
                row("distorted and hot, neutral", part["distorted_neutral"]),
                row("distorted and hot, charged", part["distorted_charged"]),
                *(row(text, part["by_kind"][kind]) for kind, text in KINDS.items()),
                *(row(f"charge {signed(int(q))}", values) for q, values in by_charge),
                *(
                    row(f"teacher's members {bounds} eV/Å apart", values)
                    for bounds, values in part["by_spread"].items()
                    if values["n_molecules"] > 1
                ),
            ],
        ),
        "How far the members are apart is the largest standard deviation of a force on one atom of "
        "the geometry: a student of their mean cannot be surer than they are.",
        "",
        "![The student's energies and forces against the teacher's](model_card_parity.png)",
        "",
        "![Errors by element and by charge](model_card_errors.png)",
        "",
        *table(
            "element | atoms | force MAE, meV/Å | force RMSE, meV/Å",
            "lrrr",
            [
                [
                    symbol(z),
                    f"{v['n_atoms']:,.0f}",
                    f"{v['force_mae']:.0f}",
                    f"{v['force_rmse']:.0f}",
                ]
                for z, v in by_element
            ],
        ),
        "Left out, because the teacher's members disagree or the geometry is none of a molecule: "
        f"{left_out}, of {part['labels']['labels']:,} labels. The student gave no number for "
        f"{part['n_student_not_finite']:,} of the others.",
        "",
    ]


def far(part: Results, coulomb: bool) -> list[str]:
    """What atoms far apart have to do with a student's errors, with a Coulomb energy or not."""
    groups = [
        group for group in ("all", "neutral", "charged", "charged more than once") if group in part
    ]
    shells = [
        f"beyond {low:g} Å" if high is None else f"{low:g} to {high:g} Å"
        for low, high in itertools.pairwise(part["shells"])
    ]
    rows = []
    for group in groups:
        values = part[group]
        cells = zip(values["rms"], values["share"], values["share_error"], strict=True)
        rows.append(
            [
                group,
                *(f"{rms:.1f}: {100 * share:+.0f} ± {100 * e:.0f} %" for rms, share, e in cells),
                f"{values['force_mae']:.2f}",
                f"{values['force_mae_without']:.2f}",
            ]
        )
    return [
        "## Atoms far apart",
        "",
        "The teacher lets its partial charges act at any distance; the student hears of an atom "
        "beyond 5 Å only through those between"
        + (
            " and by the Coulomb energy of its own. For "
            if coulomb
            else ", and of one beyond 15 Å not at all. For "
        )
        + f"{part['n_molecules']:,} held-out molecules: the Coulomb forces of the teacher's "
        "charges from each range of distances (root of the mean square, meV/Å), and which share of "
        "them the student's errors hold by least squares: 0 % where it has learnt them, 100 % "
        "where it knows nothing of them. Then the force MAE, and what it would be without these "
        "shares.",
        "",
        *table(
            " | ".join(["", *shells, "force MAE, meV/Å", "without"]),
            "l" + "r" * (len(shells) + 2),
            rows,
        ),
    ]


def members(part: Results) -> list[str]:
    """How far the teacher's members are apart."""
    names = {
        "all": "all",
        "neutral": "neutral",
        "charged": "charged",
        "distorted_neutral": "distorted and hot, neutral",
        "distorted_charged": "distorted and hot, charged",
    }
    rows = []
    for group, text in (names | KINDS).items():
        found = part["groups"][group]
        one, student = found["member"], found["student"]
        rows.append(
            [
                text,
                f"{one['n_geometries']:,.0f}",
                f"{one['force_mae']:.1f} / {one['force_rmse']:.1f}",
                f"{student['force_mae']:.1f} / {student['force_rmse']:.1f}",
                f"{found['standard_error']:.1f}",
                *(
                    # Where each molecule has one geometry, there is nothing to compare.
                    "" if whose["energy_mae"] is None else f"{whose['energy_mae']:.2f}"
                    for whose in (one, student)
                ),
            ]
        )
    n, ranked = part["n_members"], part["conformers"]
    return [
        "## How sure the teacher is",
        "",
        f"The teacher is the mean of {n} networks. How far one of them is from the mean of the "
        f"others, beside how far the student is from the mean of all, on {part['n_molecules']:,} "
        f"held-out molecules, measured on {device(part)}; and the standard error of the mean, "
        f"which is what chance in the training of just these {n} networks leaves in it. A student "
        "that had learnt all but that would still differ from it by as much.",
        "",
        *table(
            "| geometries | one network, force MAE / RMSE, meV/Å | student, force MAE / RMSE "
            "| standard error of the teacher's mean | one network, energy within a molecule, MAE, "
            "kcal/mol | student",
            "lrrrrrr",
            rows,
        ),
        "On the conformers that other methods are compared on below, one network ranks as the mean "
        f"of the others does with a Spearman correlation of {ranked['spearman']:.2f}, and its "
        f"energies differ by {ranked['mae']:.2f} kcal/mol about the mean (MAE).",
        "",
        "Those are energies of one molecule's geometries. Between molecules, in a reaction or a "
        "protonation, counts what all geometries of a molecule share: the size of the energy's own "
        "error. The teacher's networks differ in it, too. Between isomers of one charge whatever "
        "of it follows charge and composition cancels.",
        "",
        *table(
            "| one network: median, kcal/mol | 90 % within | student: median | 90 % within "
            "| largest",
            "lrrrrr",
            [
                [
                    names[group],
                    *(
                        f"{part['groups'][group][whose][f'molecule_energy_{key}']:.{digits}f}"
                        for whose, key, digits in (
                            ("member", "median", 2),
                            ("member", "90_percent", 1),
                            ("student", "median", 2),
                            ("student", "90_percent", 1),
                            ("student", "largest", 0),
                        )
                    ),
                ]
                for group in ("all", "neutral", "charged")
            ],
        ),
    ]


def minima(part: Results) -> list[str]:
    """Relaxed geometries and their energies."""
    rows = [
        [
            f"{found['fmax']}",
            group,
            f"{found[group]['n_conformers']:,.0f}",
            f"{found[group]['rmsd_median']:.3f}",
            f"{found[group]['rmsd_90_percent']:.2f}",
            f"{found[group]['heavy_rmsd_median']:.3f}",
            f"{found[group]['heavy_rmsd_90_percent']:.2f}",
            f"{found[group]['energy_mae']:.2f}",
            f"{found[group]['own_minima_energy_mae']:.2f}",
        ]
        for found in part["at"]
        for group in ("all", "neutral", "charged")
    ]
    first, last = part["at"][0], part["at"][-1]
    limits = " and then ".join(str(found["fmax"]) for found in part["at"])
    changed = ", those included whose bonds changed on the way"  # older results do not tell them
    if "n_teacher_rearranged" in last:
        changed = (
            f" with the bonds they had ({last['n_teacher_rearranged']:,} have others at the "
            f"teacher's minimum and {last['n_student_rearranged']:,} at the student's, and are no "
            "conformers of the molecule any more)"
        )
    return [
        "## Minima",
        "",
        f"{first['n_started']:,} embedded conformers of {part['n_embedded']:,} held-out molecules, "
        "relaxed by teacher and student from the same start with the same optimiser, until no "
        f"force is larger than {limits} eV/Å (a screen stops at 0.05 unless told otherwise). The "
        f"teacher brought {last['n_teacher_converged']:,} to {last['fmax']}, the student "
        f"{last['n_student_converged']:,}; compared are those that both did{changed}. Some end in "
        "different minima, hence the long tail. Energies are relative to the mean of the molecule, "
        f"over the {last['all']['n_molecules']:,.0f} molecules with three different minima or more "
        f"({last['all']['n_minima']:,.0f} minima): once of the same geometries, the teacher's "
        "minima, and once with each method at its own.",
        "",
        *table(
            "to, eV/Å | | conformers | RMSD, all atoms, median, Å | 90 % | RMSD, heavy atoms, "
            "median, Å | 90 % | energy at the teacher's minima, MAE, kcal/mol | energy at own "
            "minima, MAE",
            "llrrrrrrr",
            rows,
        ),
    ]


def protomers(part: Results) -> list[str]:
    """Energies of unlikely protonation states."""
    rows = [
        [
            group,
            f"{v['n']:,}",
            f"{v['median']:.2f}",
            f"{v['90_percent']:.1f}",
            f"{v['largest']:.0f}",
            f"{100 * v['n_far_off'] / v['n']:.1f} %",
        ]
        for group, v in part["groups"].items()
    ]
    rearranged = part["rearranged"]
    too = sum(molecule["teacher_too"] for molecule in rearranged)
    besides = part.get("n_both_signs_besides", 0)
    more = (
        f" {besides:,} of them were drawn besides to have groups of both signs, several of one, "
        "and count in that row alone."
    )
    return [
        "## Protonation states",
        "",
        f"{part['n_converged']:,} held-out molecules that lost or took protons at groups chosen at "
        "random (`mlff_core/distill/protomers.py`), so that charged groups and total charges come "
        "in combinations that tables hardly have. Each was relaxed by the student to 0.05 eV/Å, "
        f"on {device(part)}. {len(rearranged):,} came to other bonds than those of the SMILES "
        f"(from the same start the teacher brings {too:,} of them to others, too), which a screen "
        f"calls rearranged, and are left out.{more if besides else ''} The size of the energy's "
        "error there, in kcal/mol:",
        "",
        *table(
            f"| molecules | median | 90 % within | largest | above {part['far_off_kcal_mol']:g}",
            "lrrrrr",
            rows,
        ),
        "The largest:",
        "",
        *table(
            "SMILES | error, kcal/mol",
            "lr",
            [[f"`{w['smiles']}`", f"{w['error']:+.0f}"] for w in part["worst"]],
        ),
    ]


def displaced(part: Results) -> list[str]:
    """How far from minima the surface holds."""
    n = part["n_molecules"]
    return [
        "## Far from minima",
        "",
        f"{n} held-out molecules at minima, every coordinate moved by Gaussian noise, on "
        f"{device(part)} ({part['backend']}): the energy above the minimum; molecules whose energy "
        "is below it or no number, which none can be; those that a relaxation brings to a minimum, "
        f"and to the one they came from (within {part['returned_ev']} eV). What does not come to a "
        "minimum is reported, as exploded or not converged. Training ends at a width of "
        "0.1 Å; dynamics at 1000 K has about 0.1 eV an atom.",
        "",
        *table(
            "width, Å | energy above the minimum, median, eV an atom | below the minimum "
            "| relaxed to a minimum | to the same",
            "rrrrr",
            [
                [
                    f"{row['width']:g}",
                    f"{row['energy_an_atom_median']:.2f}",
                    f"{row['n_below_minimum']}",
                    f"{100 * row['n_converged'] / n:.0f} %",
                    f"{100 * row['n_back'] / n:.0f} %",
                ]
                for row in part["rows"]
            ],
        ),
    ]


def dynamics(part: Results) -> list[str]:
    """Drift and broken bonds."""
    shadow, total = part["shadow"], part["total"]
    worst = int(np.argmax(np.abs(shadow["drift_of_each"])))
    return [
        "## Dynamics",
        "",
        f"{part['n_molecules']} held-out molecules of 30 to 50 atoms at constant energy for "
        f"{part['picoseconds']:.0f} ps from {part['warm_up_ps']:.0f} ps with a bath of 300 K, "
        f"steps of {part['timestep_fs']} fs, on {device(part)} ({part['backend']}). Velocity "
        "Verlet does not keep the total energy itself but its shadow energy, which differs by some "
        "of what is in fast vibrations, to the second order of the time step (`shadow_correction` "
        "of `benchmarks/accuracy/nve.py`). The difference stays small, so over long times both "
        "drift alike; over tens of picoseconds the total energy also follows how heat spreads "
        "among the vibrations. Straight lines through the shadow energy, in % of the kinetic "
        "energy per nanosecond; ± is the standard error of the fit:",
        "",
        f"- all molecules together: {shadow['drift_percent_per_ns']:+.2g} ± "
        f"{shadow['drift_error']:.2g} % per ns (through the total energy: "
        f"{total['drift_percent_per_ns']:+.2g} ± {total['drift_error']:.2g})",
        f"- mean size over the molecules: {size_of_drift(part):.2g} % per ns (total energy: "
        f"{size_of_drift(part, 'total'):.2g})",
        f"- the one that drifts most: {shadow['drift_of_each'][worst]:+.2g} ± "
        f"{shadow['drift_error_of_each'][worst]:.2g} % per ns",
        f"- molecules with a broken bond: {part['n_broken']}{named_breaks(part)}; the longest any "
        f"bond became is {part['longest_bond']:.2f} of the sum of its covalent radii",
        f"- the shadow energy fluctuates by {shadow['energy_fluctuation_mev']:.2g} meV, the total "
        f"energy by {total['energy_fluctuation_mev']:.2g}; {part['temperature_k']:.0f} K at the "
        "end",
        "",
    ]


def conformers(part: Results) -> list[str]:
    """Ranking of conformers beside other methods."""
    rows = [
        [
            name if group == "all" else f"{name}, {group}",
            *(f"{v[key]:.2f}" for key in ("spearman", "kendall", "pair_mae", "mae")),
            f"{100 * v['lowest_found']:.0f} %",
        ]
        for group in ("all", "neutral", "charged")
        for name, v in part[group].items()
    ]
    found = part["minima"]
    return [
        "## Conformers beside other methods",
        "",
        f"{part['n_conformers']:,} conformers of {part['n_molecules']} held-out molecules, "
        f"{part['n_charged']} of them charged (`benchmarks/conformers.npz`), at minima of one "
        "member of the teacher; all methods get the same geometries, and their energies are "
        "compared with the mean of the teacher's members, whose surface they stand on. MMFF94 is "
        "also given its own minimum next to each. Means over the molecules. What the teacher "
        "itself gets wrong does not show here.",
        "",
        *table(
            "method | Spearman | Kendall | pairs, MAE, kcal/mol | about the mean, MAE, kcal/mol "
            "| finds the lowest",
            "lrrrrr",
            rows,
        ),
        "From the same starts, MMFF94's minima, the student (to 0.02 eV/Å) ends "
        f"{found['rmsd_median']:.3f} Å from where the member of the teacher ends (to 0.05 eV/Å, at "
        f"most 100 steps): median RMSD over all atoms of {found['n_converged']} conformers; 90 % "
        f"are within {found['rmsd_90_percent']:.2f} Å. Over the heavy atoms it is "
        f"{found['heavy_rmsd_median']:.3f} Å, and {found['heavy_rmsd_90_percent']:.2f} Å.",
        "",
    ]


def size_of_drift(part: Results, energy: str = "shadow") -> float:
    """Mean over the molecules, so that rises and falls do not make up for each other."""
    return float(np.abs(part[energy]["drift_of_each"]).mean())


def relaxed(results: Results) -> list[Results]:
    """Relaxed conformers, loose to tight: embedded ones, or else those of conformers.npz."""
    if "minima" in results:
        return results["minima"]["at"]
    part = results["conformers"]
    energy_mae, rmsd_median = part["all"]["student"]["mae"], part["minima"]["rmsd_median"]
    return [{"fmax": 0.02, "all": {"energy_mae": energy_mae, "rmsd_median": rmsd_median}}]


def targets(results: Results) -> list[str]:
    """What must be reached, what is aimed at, and what was measured."""
    part = results["teacher"]
    ratio = part["charged"]["force_mae"] / part["neutral"]["force_mae"]
    rows = []
    for whose in ("neutral", "charged"):
        moved = part[f"distorted_{whose}"]
        rows += [
            (f"force MAE, distorted geometries, {whose}", "meV/Å", 30, 18, moved["force_mae"]),
            (f"force RMSE, distorted geometries, {whose}", "meV/Å", 50, 30, moved["force_rmse"]),
            (
                f"energy within one molecule, distorted geometries, {whose}, MAE", "kcal/mol",
                0.6, 0.3, moved["energy_mae"],
            ),
        ]  # fmt: skip
    rows += [
        (
            "energy among relaxed conformers of one molecule, MAE", "kcal/mol", 0.35, 0.2,
            relaxed(results)[-1]["all"]["energy_mae"],
        ),
    ]  # fmt: skip
    rows += [
        (
            "RMSD of the student's relaxed geometries to the teacher's, same start, both to "
            f"{found['fmax']} eV/Å, median", "Å", 0.1, 0.05, found["all"]["rmsd_median"],
        )
        for found in relaxed(results)
    ]  # fmt: skip
    rows.append(("force MAE of charged molecules", "× neutral", 1.3, 1.0, ratio))
    if "nve" in results:
        found = results["nve"]
        rows += [
            (
                "NVE at 300 K, 0.5 fs: size of the drift of the shadow energy, mean over molecules",
                "% of kinetic energy per ns",
                0.1, 0.01, size_of_drift(found),
            ),
        ]  # fmt: skip
    lines = []
    for name, unit, must, aim, measured in rows:
        verdict = "**missed**"
        if measured <= must:
            verdict = "met" if measured <= aim else "must met, aim missed"
        lines.append([name, f"{must:g}", f"{aim:g}", f"{measured:.3g} {unit}", verdict])
    if "nve" in results:
        lines.append(breaks(results["nve"]))
    found = results["conformers"]["all"]
    ours, theirs = found["student"]["spearman"], found["GFN2-xTB"]["spearman"]
    lines.append(
        [
            "conformers: rank correlation (Spearman) above that of GFN2-xTB",
            f"{theirs:.2f}",
            "",
            f"{ours:.2f}",
            "met" if ours > theirs else "**missed**",
        ]
    )
    return [
        "## Against what it is meant to reach",
        "",
        *table("quantity | must | aim | measured |", "lrrrl", lines),
    ]


def named_breaks(part: Results) -> str:
    """Which bonds broke, and when, in brackets; older measurements do not say."""
    named = [
        f"{bond['bond']} of `{bond['smiles']}` after {bond['picoseconds']:.0f} ps"
        for bond in part.get("broken", [])
    ]
    return f" ({', '.join(named)})" if named else ""


def breaks(part: Results) -> list[str]:
    """The row of the molecules that break, which says so where the run was cut off."""
    ran, n_broken = part["picoseconds"], part["n_broken"]
    verdict = "met" if ran >= NVE_PS else f"none in the {ran:.0f} ps it was run"
    return [
        f"NVE: molecules that break in {NVE_PS} ps", "0", "0",
        f"{n_broken} of {part['n_molecules']}", "**missed**" if n_broken else verdict,
    ]  # fmt: skip


def failures(part: Results) -> list[str]:
    """Where the student fails."""
    usual = part["all"]["force_mae"]
    elements = [
        f"{symbol(z)} ({v['force_mae'] / usual:.1f})"
        for z, v in sorted(part["by_element"].items(), key=lambda item: -item[1]["force_mae"])
        if v["force_mae"] > 2 * usual
    ]
    charges = [
        f"{signed(int(q))} ({v['force_mae'] / usual:.1f})"
        for q, v in part["by_charge"].items()
        if v["force_mae"] > 1.3 * usual
    ]
    return [
        "## Where it fails",
        "",
        "Elements whose force MAE is more than twice that of all atoms, with the ratio: "
        + (", ".join(elements) or "none")
        + ". They are rare in the training data, and their bonds vary most.",
        "",
        "Total charges whose force MAE is more than 1.3 times that of all molecules: "
        + (", ".join(charges) or "none")
        + ". They are rare in the training data, too.",
        "",
        "The molecules with the largest force error; most are strained, hypervalent, or carry a "
        "charge where few molecules have one:",
        "",
        *table(
            "SMILES | force RMSE, meV/Å",
            "lr",
            [[f"`{w['smiles']}`", f"{w['force_rmse']:.0f}"] for w in part["worst"]],
        ),
    ]


def card(results: Results, checkpoint: Results, network: PaiNN, accuracy: Path) -> str:
    """The page, in Markdown."""
    besides = {
        "members": members, "protomers": protomers,
        "far": lambda part: far(part, network.config.coulomb), "minima": minima,
        "displaced": displaced, "nve": dynamics,
    }  # fmt: skip
    lines = [
        f"# Model card: {checkpoint['name']}",
        "",
        f"Written by `benchmarks/model_card.py` from `benchmarks/results/{accuracy.name}`, which "
        "the commands of `benchmarks/accuracy` measured.",
        "",
        *what_it_is(results, checkpoint, network),
        *targets(results),
        *against_teacher(results["teacher"]),
        *(line for name, section in besides.items() if name in results
          for line in section(results[name])),
        *(line for name, section in (
            ("other_bonds", other_bonds), ("torsions", torsions), ("rare", rare),
            ("environments", environments), ("few_atoms", few_atoms),
            ("charges", partial(charges, beside=not network.config.charges_after)),
        )
          if name in results for line in section(results[name], device(results[name]))),
        *conformers(results["conformers"]),
        *failures(results["teacher"]),
        "[What not to use it for](not_for.md) says the same in short; "
        "[how it was trained](training.md) is a page of its own.",
    ]  # fmt: skip
    return "\n".join(lines).rstrip() + "\n"


# --- Pictures -------------------------------------------------------------------------------------


def draw_parity(part: Results) -> Figure:
    """The student's energies and forces against the teacher's."""
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    panels = (
        ("energy_histogram", "energy relative to the molecule's mean, eV"),
        ("force_histogram", "force component, eV/Å"),
    )
    for axes, (name, what) in zip(figure.subplots(1, 2), panels, strict=True):
        counts = np.array([row.split() for row in part[name]["rows"]], dtype=float)
        limit = part[name]["limit"]
        edges = np.linspace(-limit, limit, len(counts) + 1)
        drawn = axes.pcolormesh(
            edges, edges, np.ma.masked_equal(counts.T, 0), norm=LogNorm(), cmap="viridis"
        )
        axes.plot([-limit, limit], [-limit, limit], color="tab:red", linewidth=0.6)
        axes.set(xlabel=f"teacher: {what}", ylabel="student", aspect="equal")
        axes.locator_params(nbins=7)
        figure.colorbar(drawn, ax=axes, shrink=0.8, label="number")
    return figure


def draw_errors(part: Results) -> Figure:
    """Errors by element and by charge."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    by_element, by_charge = figure.subplots(1, 2)
    elements = sorted(part["by_element"], key=int)
    charges = sorted(part["by_charge"], key=int)
    for axes, groups, names in (
        (by_element, [part["by_element"][z] for z in elements], [symbol(z) for z in elements]),
        (by_charge, [part["by_charge"][q] for q in charges], [signed(int(q)) for q in charges]),
    ):
        x = np.arange(len(names))
        for shift, key, label in ((-0.2, "force_mae", "MAE"), (0.2, "force_rmse", "RMSE")):
            axes.bar(x + shift, [group[key] for group in groups], 0.4, label=label)
        axes.set_xticks(x, names)
        axes.set_ylabel("force error, meV/Å")
        axes.legend(frameon=False, loc="upper center")
    by_element.set_xlabel("element")
    by_charge.set_xlabel("total charge, e")
    energies = by_charge.twinx()
    values = [part["by_charge"][q]["energy_mae"] for q in charges]
    energies.plot(np.arange(len(charges)), values, "k_", markersize=18)
    energies.set_ylabel("energy MAE within a molecule (–), kcal/mol")
    energies.set_ylim(0, None)
    return figure


def draw_learning(checkpoint: Results) -> Figure:
    """Errors on held-out molecules against all samples so far, stage after stage."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, 2)
    before = 0.0
    for number, stage in enumerate(stages_of(checkpoint)):
        points = checks_of(stage)
        x = [(before + point["samples"]) / 1e6 for point in points]
        for axes, key in zip(panels, ("force_mae", "energy_mae"), strict=True):
            axes.plot(x, [point[key] for point in points], ".-", color="tab:blue")
            if number:
                axes.axvline(before / 1e6, color="0.7", linewidth=0.8, linestyle="--")
        before += stage["samples"]
    for axes, what in zip(panels, ("force MAE, meV/Å", "energy MAE, kcal/mol"), strict=True):
        axes.set(xlabel="samples, millions (dashed: a new stage)", ylabel=what, yscale="log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
    return figure


def save(figure: Figure, file: Path) -> None:
    """Without the version of the program that drew it."""
    figure.savefig(file, dpi=110, metadata={"Software": None})


# --- All of it ------------------------------------------------------------------------------------


def headline(results: Results) -> dict[str, str]:
    """The numbers that `mlff-screen info` shows."""
    part = results["teacher"]
    every, moved = part["all"], part["distorted"]
    lines = {
        "held-out force MAE / RMSE": f"{every['force_mae']:.0f} / {every['force_rmse']:.0f} meV/Å "
        f"({part['n_embedded']:,} molecules, against the teacher); distorted "
        f"{moved['force_mae']:.0f} / {moved['force_rmse']:.0f}",
        "held-out energy MAE": f"{every['energy_mae']:.2f} kcal/mol within a molecule; distorted "
        f"{moved['energy_mae']:.2f}",
    }
    found = relaxed(results)[-1]
    lines["minima"] = (
        f"{found['all']['rmsd_median']:.3f} Å from the teacher's (median RMSD), energies of "
        f"conformers within {found['all']['energy_mae']:.2f} kcal/mol (MAE)"
    )
    if "minima" in results:
        lines["minima"] += ", " + ", ".join(
            f"{found[group]['energy_mae']:.2f} of {group} molecules"
            for group in ("neutral", "charged")
        )
    if "members" in results:
        groups = results["members"]["groups"]
        lines["energies between molecules"] = "off by " + ", ".join(
            f"{groups[group]['student']['molecule_energy_median']:.2f} kcal/mol ({group}, median; "
            f"90 % within {groups[group]['student']['molecule_energy_90_percent']:.1f})"
            for group in ("neutral", "charged")
        )
    if "nve" in results:
        nve = results["nve"]
        shadow = nve["shadow"]
        lines["energy drift"] = (
            f"{shadow['drift_percent_per_ns']:.2g} ± {shadow['drift_error']:.2g} % of kinetic "
            f"energy per ns (NVE, 300 K, 0.5 fs, {nve['picoseconds']:.0f} ps), mean size over "
            f"molecules {size_of_drift(nve):.2g} %"
        )
    found = results["conformers"]["all"]
    lines["conformer ranking"] = "Spearman " + ", ".join(
        f"{found[name]['spearman']:.2f} {name}" for name in ("student", "GFN2-xTB", "MMFF94")
    )
    return lines


def merged(paths: list[Path]) -> Results:
    """Several files of parts as one; a later file's part takes the place of an earlier one's."""
    results: Results = {}
    for path in paths:
        part = json.loads(path.read_text())
        if results and part["model_sha256"] != results["model_sha256"]:
            raise SystemExit(f"{path}: is about other weights than {paths[0]}")
        results |= part
    return results


def main() -> None:
    """Write all files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="default", help="default or small")
    parser.add_argument("parts", type=Path, nargs="*", metavar="PART.json")
    arguments = parser.parse_args()
    model = "" if arguments.model == "default" else arguments.model
    accuracy = RESULTS / f"accuracy{model and f'_{model}'}.json"
    folder = ROOT / "docs" / model
    results = merged(arguments.parts or [accuracy])
    tensors = find_model(arguments.model)
    network, checkpoint, sha256 = read_checkpoint(tensors)
    if results["model_sha256"] != sha256:
        raise SystemExit(f"measured on {results['model_sha256']}, shipped is {sha256}")
    for name in ("teacher", "conformers"):
        if name not in results:
            raise SystemExit(f"no part of `benchmarks/accuracy {name}` among these files")
    accuracy.write_text(json.dumps(results, indent=1) + "\n")
    checkpoint["headline"] = headline(results)
    checkpoint["metrics"] = {name: results["teacher"][name] for name in ("all", "distorted")}
    text = json.dumps(checkpoint, indent=2, ensure_ascii=False)
    tensors.with_suffix(".json").write_text(text + "\n", encoding="utf-8")
    folder.mkdir(exist_ok=True)
    save(draw_parity(results["teacher"]), folder / "model_card_parity.png")
    save(draw_errors(results["teacher"]), folder / "model_card_errors.png")
    trained = checkpoint | {"stages": read_training_log(tensors)}
    save(draw_learning(trained), folder / "model_card_learning.png")
    text = card(results, trained, network, accuracy)
    (folder / "model_card.md").write_text(text, encoding="utf-8")
    text = "\n".join(training(trained)).rstrip() + "\n"
    (folder / "training.md").write_text(text, encoding="utf-8")
    (folder / "not_for.md").write_text(
        not_for(checkpoint["name"], results, coulomb=network.config.coulomb), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
