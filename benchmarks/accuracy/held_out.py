"""Held-out molecules: those that a file names, and those of them that embed."""

import argparse
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.accuracy.part import log
from mlff_core.cores import usable_cores
from mlff_core.distill.embedding import Embedded
from mlff_core.distill.steps import embed_all
from mlff_core.models.potential import Potential


def add_options(
    command: argparse.ArgumentParser, *, n_molecules: int, n_conformers: int | None = None
) -> None:
    """Which molecules, and how many of them, with how many conformers each."""
    command.add_argument("--held-out", type=Path, required=True, help="molecules not trained on")
    command.add_argument("--molecules", type=int, default=n_molecules)
    if n_conformers is not None:
        command.add_argument(
            "--conformers", type=int, default=n_conformers, help="of each molecule"
        )


def add_teacher(command: argparse.ArgumentParser) -> None:
    """The teacher's file."""
    command.add_argument("--teacher", type=Path, required=True)


def smiles_of(arguments: argparse.Namespace, student: Potential) -> list[str]:
    """SMILES of the held-out molecules whose charge the student knows."""
    config = student.config
    rows = pq.read_table(arguments.held_out, columns=["smiles", "charge"]).to_pylist()
    return [r["smiles"] for r in rows if config.min_charge <= r["charge"] <= config.max_charge]


def embedded(
    arguments: argparse.Namespace, student: Potential
) -> tuple[list[str], list[Embedded], Counter[str]]:
    """SMILES of held-out molecules, those of them that embed, and why the others do not."""
    smiles = smiles_of(arguments, student)[: arguments.molecules]
    molecules, failed = embed_all(smiles, arguments.conformers, arguments.seed, usable_cores())
    log(f"embedded {len(molecules)} molecules")
    return smiles, molecules, failed
