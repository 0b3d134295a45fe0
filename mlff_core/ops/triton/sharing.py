"""Whether this process has the card for itself.

Some kernels, those of warpgroups.py, were seen to wait for ever beside another process that
computes on the same card. They are taken only where somebody says that there is none.
"""

import functools
import logging
import os

import torch

log = logging.getLogger(__name__)

#: The environment variable that says, by "1", that no other process computes on the card.
ALONE = "MLFF_SCREEN_CARD_ALONE"
#: Most that a process has of a card besides what PyTorch asked for: its context, and kernels.
_CONTEXT_BYTES = 2 * 2**30


def alone() -> bool:
    """Whether somebody says that no other process computes on the card."""
    return os.environ.get(ALONE) == "1"


def share() -> None:
    """Say that others do, from now on and whatever was said: processes of ours, for one."""
    if os.environ.pop(ALONE, None) is not None:
        log.info("%s counts no longer: the card is shared", ALONE)


def bytes_of_others(device: torch.device) -> int:
    """About how much of a card's memory other processes have; up to 2 GiB may be our own."""
    free, total = torch.cuda.mem_get_info(device)
    not_ours = total - free - torch.cuda.memory_reserved(device)
    return not_ours if not_ours > _CONTEXT_BYTES else 0


@functools.cache
def tell_of_others(device: torch.device) -> None:
    """Warn once, where somebody said that there are none."""
    others = bytes_of_others(device) if alone() else 0
    if others:
        log.warning(
            "%s=1, but other processes have about %.0f GiB of %s: if one of them computes, kernels "
            "may wait for ever (docs/operations.md, A GPU)",
            ALONE,
            others / 2**30,
            device,
        )
