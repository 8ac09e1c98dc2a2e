"""What a process is told by torchrun if that started it, read without torch."""

from __future__ import annotations

import os


def rank_of_process() -> int | None:
    """The rank of this process; None where torchrun did not start it."""
    rank = os.environ.get("RANK")
    return int(rank) if rank is not None and "TORCHELASTIC_RUN_ID" in os.environ else None


def is_first() -> bool:
    """True for the process that talks to the user: rank 0, or the only one."""
    return rank_of_process() in (None, 0)


def usable_cores() -> int:
    """CPU cores that this process may use, at least one; ranks of one machine share them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    sharing = 1 if rank_of_process() is None else int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, cores // sharing)
