"""How a process that torchrun started becomes a rank."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from importlib.metadata import version

import torch
import torch.distributed as dist

from tintype.errors import RankError, RankGoneError
from tintype.ranks.alive import Heartbeat
from tintype.ranks.meeting import Meeting, meet
from tintype.ranks.torchrun import rank_of_process
from tintype.ranks.world import ALONE, World
from tintype.rundir import source_hash

PATIENCE = timedelta(days=7)
"""How long a rank waits for another; whether that one is still alive, :mod:`tintype.ranks.alive` tells."""


@contextmanager
def joined(patience_seconds: float) -> Iterator[World]:
    """The world of the ranks that torchrun has started; a world of one in a process that it did not start.

    What lies on a CPU travels through gloo, what lies on a GPU through NCCL. On leaving, this rank needs no other.

    Args:
        patience_seconds: Silence after which a rank counts as gone.

    Raises:
        RankError: Another rank runs another version, has not come, or is gone.
    """
    if rank_of_process() is None:
        yield ALONE
        return
    meeting = meet()
    heartbeat = Heartbeat(meeting, patience_seconds)
    heartbeat.start()
    try:
        with _threads_that_wait_their_turn():
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE,
                store=meeting.store(PATIENCE), rank=meeting.rank, world_size=meeting.size,
            )  # fmt: skip
        yield _introduced(meeting)
        dist.destroy_process_group()
    except RuntimeError as error:
        if "gloo" not in str(error) and not isinstance(error, dist.DistError):
            raise
        raise RankGoneError("another rank is gone; its own machine says why.") from error
    finally:
        heartbeat.stop()


@contextmanager
def _threads_that_wait_their_turn() -> Iterator[None]:
    """Let the threads that start meanwhile not interrupt the one that computes, where they share a core with it .

    Gloo's threads wake for every few packets; each time they would push the computation aside.
    """
    if not hasattr(os, "SCHED_BATCH") or os.sched_getscheduler(0) != os.SCHED_OTHER:
        yield
        return
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def _introduced(meeting: Meeting) -> World:
    """The world, once all ranks are known to run the same code."""
    group = dist.new_group(backend="gloo", timeout=PATIENCE)
    assert isinstance(group, dist.ProcessGroup), "every rank is in this group"
    world = World(
        rank=meeting.rank,
        size=meeting.size,
        local_rank=int(os.environ["LOCAL_RANK"]),
        local_size=int(os.environ["LOCAL_WORLD_SIZE"]),
        hosts=meeting.hosts,
        attempt=int(os.environ["TORCHELASTIC_RESTART_COUNT"]),
        group=group,
    )
    code = f"tintype {version('tintype')} (source {source_hash()}), torch {torch.__version__}"
    require_equal(world, "versions", world.exchange(code), "Install the same on every machine.")
    return world


def require_equal(world: World, what: str, values: list[str], remedy: str) -> None:
    """Refuse ranks that differ from the first.

    Raises:
        RankError: With the first rank that differs, both values and the remedy.
    """
    for rank, value in enumerate(values):
        if value != values[0]:
            raise RankError(
                f"the ranks have other {what}: {world.describe(0)} has {values[0]}, {world.describe(rank)} has "
                f"{value}. {remedy}"
            )
