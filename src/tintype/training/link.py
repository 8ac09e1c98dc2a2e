"""How fast the ranks' link is, and what it costs their cores: a few all-reduces, as the gradients take them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
import torch.distributed as dist

from tintype.evaluation.scaling_model import Link, ring_bytes, ring_messages
from tintype.ranks.world import World

_LEAST_BYTES = 2**18
_MOST_BYTES = 2**25
_LONG_SECONDS = 0.1
"""A transfer that takes this long tells the bandwidth; larger ones would only take longer."""

_LARGE_TIMES, _SMALL_TIMES = 7, 101
_BESIDE = 3.0
"""How many times as long as a transfer the computation is that it delays."""

_SIDE = 512


def measure_link(world: World) -> Link:
    """Measure latency, bandwidth and the cores' work, with nothing else going on. All ranks call this together.

    Latency is that of a message of a few bytes, bandwidth that of one which takes a tenth of a second, up to 32 MiB.
    The work is what a computation beside such a transfer takes longer, which also counts what the system does for it.
    Medians; of the slowest rank, the work the mean over ranks.

    Args:
        world: At least two ranks.
    """
    small = _slowest(world, 4, _SMALL_TIMES)
    size = _LEAST_BYTES
    while size < _MOST_BYTES and _slowest(world, size, 3) < _LONG_SECONDS:
        size *= 2
    large = _slowest(world, size, _LARGE_TIMES)
    return Link(
        bytes_per_second=ring_bytes(size, world.size) / max(large - small, 1e-9),
        latency=small / ring_messages(world.size),
        work_per_byte=_delay(world, size, large) / ring_bytes(size, world.size),
        transfer_bytes=size,
        transfers=_LARGE_TIMES,
    )


def _slowest(world: World, size: int, times: int) -> float:
    """Median seconds of an all-reduce of ``size`` bytes of fp32, on the slowest rank."""
    values = torch.zeros(size // 4)
    return float(max(world.exchange(_median(world, times, lambda: dist.all_reduce(values, group=world.gradients)))))


def _delay(world: World, size: int, seconds: float) -> float:
    """Seconds by which an all-reduce, which takes so long by itself, delays a computation; the mean over ranks."""
    matrix, values = torch.full((_SIDE, _SIDE), 1 / _SIDE), torch.zeros(size // 4)
    products = max(1, round(_BESIDE * seconds / _median(world, _SMALL_TIMES, lambda: matrix @ matrix)))
    delays = []
    for _ in range(_LARGE_TIMES):
        took = []
        for is_sent in (False, True):
            world.wait()
            begun = time.perf_counter()
            sent = dist.all_reduce(values, group=world.gradients, async_op=True) if is_sent else None
            for _ in range(products):
                matrix @ matrix
            took.append(time.perf_counter() - begun)
            if sent is not None:
                sent.wait()
        delays.append(took[1] - took[0])
    told = world.exchange(statistics.median(delays))
    return max(0.0, statistics.fmean(told))


def _median(world: World, times: int, work: Callable[[], object]) -> float:
    """Median seconds of some work that all ranks begin together."""
    took = []
    for _ in range(times):
        world.wait()
        begun = time.perf_counter()
        work()
        took.append(time.perf_counter() - begun)
    return statistics.median(took)
