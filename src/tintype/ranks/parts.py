"""Worlds of some of the ranks, while the others wait: what a study of scaling runs in."""

from __future__ import annotations

from dataclasses import replace

import torch.distributed as dist

from tintype.ranks.joining import PATIENCE
from tintype.ranks.world import World


def first_ranks(world: World, size: int) -> World | None:
    """The world of the first ranks; None on a rank that is not in it. All ranks of ``world`` call this together.

    It keeps the number of processes of this machine: a rank computes on the same share of the cores while others wait.
    It counts as the first attempt, since whoever runs something in it knows where to go on.

    Args:
        world: All ranks, written for by rank 0.
        size: How many of them, from 1.
    """
    assert world.writer == 0, "rank 0 is in every such world"
    if size == world.size:
        return replace(world, attempt=0)
    members = list(range(size))
    group = _group(members, "gloo") if size > 1 else None
    gradients = _group(members) if size > 1 else None
    if world.rank >= size:
        return None
    return replace(world, size=size, hosts=world.hosts[:size], attempt=0, group=group, gradients=gradients)


def each_by_itself(world: World) -> World:
    """This rank's world of one, whose gradients take the same way as among several, to no other rank.

    All ranks of ``world`` call this together.
    """
    groups = [_group([rank]) for rank in range(world.size)]
    own = groups[world.rank]
    return replace(
        world, rank=0, size=1, hosts=(world.hosts[world.rank],), writer=0, attempt=0, group=None, gradients=own
    )


def _group(members: list[int], backend: str | None = None) -> dist.ProcessGroup | None:
    """A group that all ranks make together; None on a rank that is not in it."""
    group = dist.new_group(members, backend=backend, timeout=PATIENCE)
    return group if isinstance(group, dist.ProcessGroup) else None
