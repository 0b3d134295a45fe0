"""What is compiled before a screen is what it launches, whatever its molecules are."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlff_core.models.checkpoint import save_checkpoint
from mlff_core.testing import random_model

pytest.importorskip("triton")

from mlff_core import kernels

#: Notes which kernels would be compiled for a card that is not there, and compiles none.
SCRIPT = """
import sys
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

import mlff_core.moves.held_triton
from mlff_core import kernels
from mlff_core.batch import MolBatch
from mlff_core.chem.constraints import embedding_constraints
from mlff_core.embedding import embedder, minimise_triton, packing
from mlff_core.models.potential import load_potential
from mlff_core.moves import exchange_triton
from mlff_core.moves.held import HeldProtons
from mlff_core.moves.hessian import RENEWED_MODEL
from mlff_core.moves.hessian_triton import inverse_model_hessian
from mlff_core.moves.minimise_triton import kernel_step
from mlff_core.moves.rules import Rules
from mlff_core.moves.settings import RelaxSettings
from mlff_core.moves.slots import Molecule, Rows
from mlff_core.moves.step import enter
from mlff_core.ops.triton import engine, launch
from rdkit import Chem


class NoCard:
    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0


driver.set_active(NoCard())
launch._can_overlap = lambda: True
engine.TritonEngine._check_against_plain = None
triton.knobs.runtime.interpret = True  # only the engine's constructor still asks
launched = set()


def note(*, key, fn, **_):
    launched.add((fn.name, key))
    return True


triton.knobs.runtime.jit_cache_hook = note
model = Path(sys.argv[1])
kernels.launch_all(model, "auto", "cpu")
listed = set(launched)
launched.clear()

potential = load_potential(model, device="cpu", backend="triton")
rules = Rules.of(RelaxSettings(), potential.dtype, potential.cutoff)
for one in (potential, potential.coarse):
    for n_atoms in (2, 42, 43, 128, 129, 170, 171, 400, 512, 513, 1365, 1366, 4096, 4097, 9000):
        one.bare_step(kernels._atoms(n_atoms, one.device))
for force_field in (potential.coarse, HeldProtons(potential)):
    for size in (1, 9, 17, 45, 130, 250):
        for n in (1, 3, 70):
            h = [Molecule(k, [1] * size, [[0.0] * 3] * size, 0) for k in range(n)]
            rows = Rows.pack(h, size, potential.device, torch.float32)
            state = enter(rows, RelaxSettings(model_hessian=size < 60 and n < 40))
            kernel_step(rows, rules, n * size, force_field.bare_step)(state)
            inverse_model_hessian(rows, RENEWED_MODEL)
            if state.memory.inverse is not None:
                i, m = torch.arange(n), torch.zeros(n, 3 * size, 3 * size)
                exchange_triton.enter_slots(rows, state, i, rows, m, rows.charge, rows.charge)
                exchange_triton.renew_slots(rows, state, i, m)
                exchange_triton.leave_slots(rows, state, i, float("inf"))
for smiles in ("CO", "CC(=O)Oc1ccccc1C(=O)O", "C[C@H](N)C(=O)O", "C" * 30, "F/C=C/F"):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    embedder.embed_molecules(
        [embedding_constraints(mol)] * 2, 3, [1, 2], steps=torch.zeros(2250, 10),
        minimise=minimise_triton.minimise,
    )
assert len(listed) > 100
assert len(launched) > 50
assert launched <= listed, sorted(name for name, _ in launched - listed)
"""


def test_all_that_a_screen_launches_is_on_the_list(tmp_path: Path) -> None:
    model = tmp_path / "model.safetensors"
    save_checkpoint(random_model(n_features=32), model, {})
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(model)],
        env=environment, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr


def test_models_that_are_not_compiled_yet_are_compiled_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processes that compile begin once, and a model is noted when all came to their ends."""
    monkeypatch.setattr(kernels.triton.knobs.cache, "dir", str(tmp_path / "cache"))
    monkeypatch.setattr(kernels.torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(kernels.torch.cuda, "mem_get_info", lambda device: (2**35, 2**36))
    monkeypatch.setattr(kernels.torch.cuda, "get_device_name", lambda device: "a card")
    monkeypatch.setattr(kernels.torch.cuda, "get_device_capability", lambda device: (9, 0))
    compiled: list[tuple[Path, ...]] = []
    all_end_well = True

    def compile_in_processes(n: int, what: tuple[tuple[Path, ...], str, str]) -> bool:
        compiled.append(what[0])
        return all_end_well

    monkeypatch.setattr(kernels, "_compile_in_processes", compile_in_processes)
    files = []
    for n_features in (32, 64, 128):
        files.append(tmp_path / f"{n_features}.safetensors")
        save_checkpoint(random_model(n_features=n_features), files[-1], {})
    first, second, third = files

    kernels.compile_kernels(first)
    assert kernels.compile_kernels(first) == 0.0
    all_end_well = False
    kernels.compile_kernels(first, second, third)
    all_end_well = True
    kernels.compile_kernels(first, second, third)
    kernels.compile_kernels(first, second, third)
    assert compiled == [(first,), (second, third), (second, third)]
