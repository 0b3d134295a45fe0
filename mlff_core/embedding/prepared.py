"""Molecules that wait for their geometry get it, all at once; what is left goes to RDKit."""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from mlff_core.chem.constrained import ConstrainedMolecule, choose_stereo, keeps_stereo
from mlff_core.embedding.checks import Cause
from mlff_core.embedding.embedder import Embedded, embed_molecules
from mlff_core.status import MoleculeStatus

#: Molecules with their first geometries -> those with the stereo that these show, or None.
ChooseStereo = Callable[
    [Sequence[tuple[ConstrainedMolecule, NDArray[np.float32]]]],
    Sequence[ConstrainedMolecule | None],
]


def embed_prepared(
    molecules: Sequence[ConstrainedMolecule],
    device: torch.device | str,
    *,
    choose: ChooseStereo | None = None,
) -> tuple[list[ConstrainedMolecule], dict[int, str]]:
    """Give molecules their conformers.

    Where the SMILES leaves stereo open, the first geometry decides, and all conformers are then
    embedded under its constraints.

    Args:
        molecules: As `prepare_constraints` gave them; those that are not ok or have their geometry
            are left alone.
        device: Where it is computed.
        choose: Reads undefined stereo off first geometries, a few core-ms each; None to do it here.

    Returns:
        The molecules in their order, `positions` filled, and for those without any conformer why
        there is none, by their place in the list: RDKit may still embed them.

    Raises:
        RuntimeError: The device failed, other than by running out of memory.
    """
    done = list(molecules)
    waiting = [
        k
        for k, molecule in enumerate(done)
        if molecule.status == MoleculeStatus.OK and molecule.constraints is not None
    ]
    wanted = [molecule.wanted for molecule in done]
    undefined = [k for k in waiting if done[k].undefined_stereo]
    open_ = set(undefined)
    left: dict[int, str] = {}
    found = _embed(done, waiting, [1 if k in open_ else wanted[k] for k in waiting], device)
    geometries = dict(zip(waiting, found, strict=True))
    firsts = [(k, geometries[k].accepted[0]) for k in undefined if len(geometries[k].accepted)]
    pairs = [(done[k], x) for k, x in firsts]
    chosen = choose(pairs) if choose else [choose_stereo(m, x) for m, x in pairs]
    again = []
    for (k, _), molecule in zip(firsts, chosen, strict=True):
        if molecule is None:
            left[k] = "given stereo was not kept"
        else:
            done[k] = molecule
            if (
                wanted[k] > 1
                and molecule.status == MoleculeStatus.OK
                and molecule.constraints is not None
            ):
                again.append(k)
    geometries |= zip(again, _embed(done, again, [wanted[k] for k in again], device), strict=True)
    for k in waiting:
        if k in left or done[k].status != MoleculeStatus.OK:
            continue
        accepted = geometries[k].accepted
        kept = accepted[keeps_stereo(done[k], accepted)] if len(accepted) else accepted
        if not len(kept):
            left[k] = geometries[k].words or "given stereo was not kept"
            continue
        done[k].positions = kept
        if len(kept) < wanted[k]:
            note = f"embedded {len(kept)} of {wanted[k]} conformers: {geometries[k].words}"
            message = done[k].message
            done[k].message = f"{message}; {note}" if message else note
    return done, left


class _Geometries:
    """What came of one molecule."""

    def __init__(self, embedded: Embedded, k: int) -> None:
        cause = embedded.cause[k]
        self.accepted = embedded.positions[k][cause == 0]
        counts = Counter(Cause(c) for c in cause.tolist() if c)
        #: Why conformers were not accepted, empty if all were.
        self.words = ", ".join(
            f"{cause.words} ({n})" if len(counts) > 1 else cause.words
            for cause, n in counts.most_common()
        )


def _embed(
    molecules: Sequence[ConstrainedMolecule],
    which: Sequence[int],
    n_conformers: Sequence[int],
    device: torch.device | str,
) -> list[_Geometries]:
    constraints = [c for k in which if (c := molecules[k].constraints) is not None]
    embedded = embed_molecules(
        constraints,
        n_conformers,
        [molecules[k].seed for k in which],
        device,
        numbers=[molecules[k].numbers for k in which],
    )
    return [_Geometries(embedded, k) for k in range(len(which))]
