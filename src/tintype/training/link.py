"""How fast the ranks' link is, and what it costs their cores: a few all-reduces, as the gradients take them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial

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

_BEFORE = 0.02
"""Seconds of computing before a message."""

_SIDE = 512


def measure_link(world: World, kind: torch.dtype = torch.float32) -> Link:
    """Measure latency, bandwidth and the cores' work, with nothing else going on. All ranks call this together.

    Latency is that of a message of a few bytes, bandwidth that of one which takes a tenth of a second, up to 32 MiB.
    The work is what a computation beside such a transfer takes longer, which also counts what the system does for it,
    and the transfer beside it takes longer as well. Medians; of the slowest rank, what goes on beside each other the
    mean over ranks.

    Args:
        world: At least two ranks.
        kind: Of the gradients on their way: gloo takes longer to add a byte of bf16 than one of fp32.
    """
    small = _slowest(world, torch.zeros(1, dtype=kind), _SMALL_TIMES)
    size = _LEAST_BYTES
    while size < _MOST_BYTES and _slowest(world, _values(size, kind), 3) < _LONG_SECONDS:
        size *= 2
    values = _values(size, kind)
    large = _slowest(world, values, _LARGE_TIMES)
    product = _median(world, _SMALL_TIMES, partial(_compute, 1))
    delay, beside = _beside(world, values, max(1, round(_BESIDE * large / product)))
    return Link(
        bytes_per_second=ring_bytes(size, world.size) / max(large - small, 1e-9),
        latency=small / ring_messages(world.size),
        work_per_byte=delay / ring_bytes(size, world.size),
        slowed=max(1.0, beside / large),
        wake=max(0.0, _after_computing(world, max(1, round(_BEFORE / product))) - small),
        transfer_bytes=size,
        transfers=_LARGE_TIMES,
    )


def _values(size: int, kind: torch.dtype) -> torch.Tensor:
    """So many bytes."""
    return torch.zeros(size // kind.itemsize, dtype=kind)


def _slowest(world: World, values: torch.Tensor, times: int) -> float:
    """Median seconds of an all-reduce, on the slowest rank."""
    return float(max(world.exchange(_median(world, times, lambda: dist.all_reduce(values, group=world.gradients)))))


def _beside(world: World, values: torch.Tensor, products: int) -> tuple[float, float]:
    """Seconds by which an all-reduce delays a longer computation, and those that it takes itself beside it.

    Both are means over ranks.
    """
    delays, arrivals = [], []
    for _ in range(_LARGE_TIMES):
        world.wait()
        alone = _compute(products)
        world.wait()
        begun, arrived = time.perf_counter(), [float("inf")]
        sent = dist.all_reduce(values, group=world.gradients, async_op=True)
        sent.get_future().add_done_callback(partial(_note_time, arrived))
        took = _compute(products)
        sent.wait()
        delays.append(took - alone)
        arrivals.append(min(arrived[0], time.perf_counter()) - begun)
    told = world.exchange([statistics.median(delays), statistics.median(arrivals)])
    delay, arrival = (statistics.fmean(each) for each in zip(*told, strict=True))
    return max(0.0, delay), arrival


def _compute(products: int) -> float:
    """Multiply matrices that stay in the cache; gives the seconds that it took."""
    matrix = torch.full((_SIDE, _SIDE), 1 / _SIDE)
    begun = time.perf_counter()
    for _ in range(products):
        matrix @ matrix
    return time.perf_counter() - begun


def _note_time(into: list[float], _done: object) -> None:
    into[0] = time.perf_counter()


def _after_computing(world: World, products: int) -> float:
    """Median seconds of a small all-reduce of ranks that have computed, on the rank that came last to it.

    What the others take longer is that they were early.
    """
    value, took = torch.zeros(1), []
    for _ in range(_SMALL_TIMES):
        _compute(products)
        begun = time.perf_counter()
        dist.all_reduce(value, group=world.gradients)
        took.append(time.perf_counter() - begun)
    return float(statistics.median(min(of_all) for of_all in zip(*world.exchange(took), strict=True)))


def _median(world: World, times: int, work: Callable[[], object]) -> float:
    """Median seconds of some work that all ranks begin together."""
    took = []
    for _ in range(times):
        world.wait()
        begun = time.perf_counter()
        work()
        took.append(time.perf_counter() - begun)
    return statistics.median(took)
