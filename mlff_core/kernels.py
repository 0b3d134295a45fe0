"""Compile the kernels of a screen before it begins: each once a host, on all cores.

A screen launches some two hundred kernels from ten processes. A process that meets one for the
first time compiles it, which takes about a second, one after the other. Here a process a core walks
through what a screen launches (`launch_all`) and compiles what no other has begun. A note beside
Triton's cache says what is compiled, so that later runs start none of them.

Imports Triton, which is there where CUDA is.
"""

import fcntl
import hashlib
import json
import logging
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Final

import torch
import triton
from rdkit import Chem

from mlff_core.batch import MolBatch
from mlff_core.chem.constraints import embedding_constraints
from mlff_core.chem.pool import WorkerProcess
from mlff_core.cores import usable_cores
from mlff_core.embedding.minimise_triton import minimise
from mlff_core.embedding.packing import SIZE_CLASSES, pack
from mlff_core.embedding.schedule import schedule
from mlff_core.models.checkpoint import read_checkpoint
from mlff_core.models.force_field import Outputs
from mlff_core.models.potential import Potential, Precision
from mlff_core.moves import exchange_triton
from mlff_core.moves.held import HeldProtons
from mlff_core.moves.hessian import MODEL
from mlff_core.moves.hessian_triton import inverse_model_hessian
from mlff_core.moves.minimise_triton import kernel_step
from mlff_core.moves.rules import Rules
from mlff_core.moves.settings import RelaxSettings
from mlff_core.moves.slots import Rows
from mlff_core.moves.step import enter
from mlff_core.ops.triton import tiles
from mlff_core.ops.triton.compiling import compiling_only
from mlff_core.ops.triton.sharing import alone

log = logging.getLogger(__name__)

#: Atoms of the batches that stand for all: every class of `ops.triton.tiles`, and where their three
#: coordinates, as rows, are of another class than they are.
_ATOMS: Final = (5000, 2000, 300, 150, 20)
#: Atoms of the tiles of the kernels that move molecules.
_TILES: Final = (128, 64, 256, 32, 16, 8)
#: Slots and atoms that stand for many and for few.
_SLOTS: Final = tuple((n, atoms) for atoms in (5000, 100, 1000) for n in (100, 2))
#: Memory of the device in bytes that a process may take: its context.
_MEMORY_EACH: Final = 2**30

#: Tensors files of models, the precision of their potentials, and the device.
_What = tuple[tuple[Path, ...], Precision, str]


def compile_kernels(
    *models: Path, precision: Precision = "auto", n_processes: int | None = None
) -> float:
    """Compile what a screen with models launches on a CUDA device; returns the seconds it took.

    Another process that is at it is waited for. What cannot be compiled here is left to who
    launches it, who says why.

    Args:
        models: Their tensors files. One set of processes, which take seconds to begin, for all.
        precision: Of the potentials.
        n_processes: None for a process a core, as far as the device has memory for them.

    Raises:
        ModelFileError: A checkpoint is missing or damaged.
        OSError: Triton's cache cannot be written.
    """
    began = time.monotonic()
    device = torch.device("cuda", torch.cuda.current_device())
    kept = Path(triton.knobs.cache.dir)
    kept.mkdir(parents=True, exist_ok=True)
    notes = {kept / f"mlff-screen-{_fingerprint(m, precision, device)}": m for m in models}
    if all(note.exists() for note in notes):
        return 0.0
    with (kept / "mlff-screen.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        left = {note: model for note, model in notes.items() if not note.exists()}
        if left:
            free, _ = torch.cuda.mem_get_info(device)
            n = n_processes or max(1, min(usable_cores(), free // _MEMORY_EACH - 1))
            if _compile_in_processes(n, (tuple(left.values()), precision, str(device))):
                for note in left:
                    note.touch()
    return time.monotonic() - began


def _fingerprint(model: Path, precision: Precision, device: torch.device) -> str:
    """What decides which kernels there are and what they are compiled to."""
    name = torch.cuda.get_device_name(device)
    tiles.load(name)
    network, _, _ = read_checkpoint(model)
    decided = [
        network.config.to_dict(), precision, name, torch.cuda.get_device_capability(device),
        triton.__version__, torch.__version__, tiles.TILES, tiles.LAUNCHES, alone(),
    ]  # fmt: skip
    digest = hashlib.sha256(json.dumps(decided).encode())
    here = Path(__file__).parent
    for file in sorted({*here.glob("ops/triton/*.py"), *here.glob("**/*_triton.py")}):
        digest.update(file.read_bytes())
    digest.update(Path(__file__).read_bytes())
    return digest.hexdigest()[:16]


def _compile_in_processes(n: int, what: _What) -> bool:
    """Whether all processes came to their ends."""
    all_done = True
    with tempfile.TemporaryDirectory() as claims:
        processes = [WorkerProcess() for _ in range(n)]
        for process in processes:
            process.connection.send((compile_share, what))
            process.connection.send((Path(claims),))
        for process in processes:
            try:
                process.connection.recv()  # it has read what to do
                error = process.connection.recv()
            except (EOFError, OSError) as gone:
                error = gone
            if error is not None:
                log.warning("some kernels are compiled when they are launched: %r", error)
                all_done = False
            process.end()
    return all_done


def compile_share(claims: Path, what: _What) -> Exception | None:
    """In such a process: compile what no other has begun; what was raised, or None.

    Args:
        claims: A folder that the processes share.
        what: See there.
    """
    try:
        models, precision, device = what
        with compiling_only(claims):
            for model in models:
                launch_all(model, precision, device)
    except Exception as error:  # the screen goes on without
        return error
    return None


def launch_all(model: Path, precision: Precision, device: str) -> None:
    """Launch every kernel of a screen, on arguments of the right types and of no meaning."""
    torch.set_num_threads(1)
    network, _, _ = read_checkpoint(model)
    potential = Potential(
        network, device=device, backend="triton", precision=precision, check=False
    )
    _launch_embedding(potential.device)
    for one in (potential.coarse, potential):
        for n_atoms in _ATOMS:
            if one is not None and one.bare_step is not None:
                one.bare_step(_atoms(n_atoms, potential.device))
    _launch_moves(potential)


def _launch_embedding(device: torch.device) -> None:
    """The minimiser of distance geometry, for all sizes."""
    packed = pack([embedding_constraints(Chem.AddHs(Chem.MolFromSmiles("C")))], device)
    for size in SIZE_CLASSES:
        square = torch.zeros(1, size, size, device=device)
        packed = packed._replace(lower=square, inverse_upper=square)
        molecule = torch.zeros(1, dtype=torch.int64, device=device)
        minimise(torch.zeros(1, 4, size, device=device), packed, molecule, schedule())


def _launch_moves(potential: Potential) -> None:
    """What a relaxation does between two force calls, models of Hessians, and springs."""
    inverse_model_hessian(Rows.empty(2, 8, potential.device, torch.float32), MODEL)
    rules = Rules.of(RelaxSettings(), potential.dtype, potential.cutoff)
    for width in _TILES:
        _launch_exchanges(width, potential.device)
        for n_slots, n_atoms in _SLOTS:
            rows = Rows.empty(n_slots, width, potential.device, potential.dtype)
            state = enter(rows, RelaxSettings(model_hessian=False))
            some = rows.positions
            memory = state.memory._replace(
                inverse=some, inverse_forces=some, inverse_y=some, renewed=rows.sizes
            )
            out = Outputs(
                torch.zeros(n_slots, dtype=torch.float64, device=potential.device),
                torch.zeros(n_atoms, 3, device=potential.device),
            )
            for begun in (state._replace(memory=memory), state):
                kernel_step(rows, rules, n_atoms, partial(_always, out))(begun)
    springs = HeldProtons(potential)
    if springs.bare_step is not None:
        springs.bare_step(_atoms(100, potential.device))


def _launch_exchanges(width: int, device: torch.device) -> None:
    """Molecules that enter slots, leave them, or begin anew."""
    rows = Rows.empty(2, width, device, torch.float32)
    inverse = torch.zeros(2, 3 * width, 3 * width, device=device)
    state = enter(rows, RelaxSettings(model_hessian=False))
    memory = state.memory._replace(
        inverse=inverse,
        inverse_forces=torch.zeros_like(state.memory.s[:, 0]),
        inverse_y=torch.zeros_like(state.memory.s),
        renewed=torch.zeros_like(rows.sizes),
    )
    state = state._replace(memory=memory)
    index, none = torch.arange(2, device=device), torch.zeros_like(rows.sizes)
    exchange_triton.enter_slots(rows, state, index, rows, inverse.clone(), none, none)
    exchange_triton.renew_slots(rows, state, index, inverse.clone())
    exchange_triton.leave_slots(rows, state, index, 5.0)


def _always(out: Outputs, batch: MolBatch) -> Outputs:
    return out


def _atoms(n: int, device: torch.device) -> MolBatch:
    """So many atoms of hydrogen in one molecule, all in one place."""
    return MolBatch(
        numbers=torch.ones(n, dtype=torch.int64, device=device),
        positions=torch.zeros(n, 3, device=device),
        mol_idx=torch.zeros(n, dtype=torch.int64, device=device),
        ptr=torch.tensor([0, n], device=device),
        charge=torch.zeros(1, dtype=torch.int64, device=device),
    )
