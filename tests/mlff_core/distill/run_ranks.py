"""A stage in two processes on a CPU, with a teacher on springs.

python run_ranks.py FOLDER
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from mlff_core.distill.devices import run_stage
from mlff_core.distill.kinds import KindConfig
from mlff_core.distill.labelling import LabelConfig
from mlff_core.distill.ranks import Ranks, launch
from mlff_core.distill.sampling import SamplingConfig
from mlff_core.distill.stage import StageConfig
from mlff_core.distill.training_config import TrainingConfig
from mlff_core.models.painn import PaiNNConfig
from mlff_core.testing import SpringTeacher

SMILES = ["CCO", "CC(=O)O", "CCN", "c1ccccc1", "CC#N", "COC", "C[NH3+]", "CC(=O)[O-]"]

KIND_OF = ["", "acid", "", "aromatic", "", "", "ion", "ion"]


def train(ranks: Ranks, folder: Path) -> None:
    torch.set_num_threads(1)
    result = run_stage(
        SMILES,
        SpringTeacher(),
        PaiNNConfig(n_features=8, n_interactions=1),
        folder / "student.safetensors",
        stage=StageConfig(seconds=1.0, n_processes=1, capacity=8, first_molecules=4),
        sampling=SamplingConfig(relax_steps=2, hot_steps=2),
        labels=LabelConfig(atoms_a_call=128, max_force=1e3, max_force_spread=1e3, min_contact=0.0),
        training=TrainingConfig(n_mols=4, warmup_steps=2),
        card={"teacher_sha256": "0" * 64},
        ranks=ranks,
        # One process has no acid, and each another number of the others.
        kinds=[KindConfig(("acid",), "teacher", calls=0.5), KindConfig(("aromatic", "ion"))],
        kind_of=KIND_OF,
    )
    mean = torch.tensor([float(ranks.rank)])
    ranks.mean_(mean)
    weights = {"mean": mean, "molecules": torch.tensor(result.report["molecules_in_pool"])}
    weights |= dict(result.student.named_parameters())
    save_file(weights, folder / f"rank-{ranks.rank}.safetensors")


if __name__ == "__main__":
    launch(2, train, Path(sys.argv[1]), cuda=False)
