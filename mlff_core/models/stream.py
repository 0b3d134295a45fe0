"""Evaluate many batches from host memory, copies on streams of their own beside the computation."""

from collections.abc import Iterable, Iterator

import torch

from mlff_core.batch import MolBatch, require_batch
from mlff_core.models.force_field import ForceField, Outputs, evaluate_checked


def evaluate_stream(potential: ForceField, batches: Iterable[MolBatch]) -> Iterator[Outputs]:
    """Energies and forces of batches in host memory, in order, also in host memory.

    While the card works on one batch, the next is on its way to it and the results of the one
    before on their way back. Holds three batches at a time.

    Raises:
        OutOfDomainError: A batch holds an element or a charge that the model does not know.
    """
    if potential.device.type != "cuda":
        yield from (evaluate_checked(potential, batch) for batch in batches)
        return
    upload, download = torch.cuda.Stream(), torch.cuda.Stream()
    compute = torch.cuda.current_stream()
    waiting: tuple[Outputs, torch.cuda.Event] | None = None
    for batch in batches:
        require_batch(batch)
        potential.domain.check(batch, potential.name)
        host = batch.to(dtype=potential.dtype)
        with torch.cuda.stream(upload):
            given = [
                t.pin_memory().to(potential.device, non_blocking=True)
                for t in (host.numbers, host.positions, host.mol_idx, host.ptr, host.charge)
            ]
        compute.wait_stream(upload)
        for t in given:
            t.record_stream(compute)
        computed = potential.evaluate(MolBatch(*given))
        download.wait_stream(compute)
        with torch.cuda.stream(download):
            results = {}
            for name, t in vars(computed).items():
                if t is not None:
                    t.record_stream(download)
                    pinned = torch.empty(t.shape, dtype=t.dtype, pin_memory=True)
                    results[name] = pinned.copy_(t, non_blocking=True)
            done = torch.cuda.Event()
            done.record()
        if waiting is not None:
            waiting[1].synchronize()
            yield waiting[0]
        waiting = Outputs(**results), done
    if waiting is not None:
        waiting[1].synchronize()
        yield waiting[0]
