"""Whether other processes have the card, too."""

import functools
import logging

import torch

log = logging.getLogger(__name__)

#: Most that a process has of a card besides what PyTorch asked for: its context, and kernels.
_CONTEXT_BYTES = 2 * 2**30


def bytes_of_others(device: torch.device) -> int:
    """About how much of a card's memory other processes have; up to 2 GiB may be our own."""
    free, total = torch.cuda.mem_get_info(device)
    not_ours = total - free - torch.cuda.memory_reserved(device)
    return not_ours if not_ours > _CONTEXT_BYTES else 0


@functools.cache
def tell_of_others(device: torch.device) -> None:
    """Warn once, where other processes have the card: kernels of large batches may then wait."""
    others = bytes_of_others(device)
    if others:
        log.warning(
            "other processes have about %.0f GiB of %s; beside one that computes, kernels were "
            "seen to wait for ever: give a card to one process (docs/operations.md, A GPU)",
            others / 2**30,
            device,
        )
