"""What a training step of several machines would take, from what one rank measured by itself and from their link.

The model: every machine is like this one, and does what this rank did by itself. A bucket of gradients goes on its way
when it is ready and the one before has arrived. Gloo sums in a ring: each rank sends 2 (N - 1) / N of the bytes, in
2 (N - 1) messages one after another (P. Patarasuk and X. Yuan, "Bandwidth optimal all-reduce algorithms for clusters of
workstations", Journal of Parallel and Distributed Computing 69 (2009)). While a bucket travels, the cores that compute
do the work of sending and adding as well, so computing goes on more slowly. A step lasts as long as that of the slowest
machine, and the steps of the machines vary by chance as those of this rank do.

The bucket, too, travels more slowly while the cores compute, and a message between ranks that computed before it takes
longer than one in a row of them: both as measured with the link.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tintype.evaluation.step_times import StepTimes

ASSUMPTIONS = (
    "Every machine is as fast as the ranks measured here, and its link as fast as theirs; the links do not slow each "
    "other down.",
    "What a rank does by itself takes as long among others: measured with every rank at work on its own images, "
    "without a message.",
    "Buckets of gradients travel one after another, each when it is ready and the one before has arrived, in a ring: "
    "2(N−1)/N of the bytes at the measured bandwidth, and 2(N−1) messages of the measured latency.",
    "The cores that compute do the work of sending and adding: while a bucket travels both go on more slowly, as much "
    "as measured beside a computation of another kind.",
    "Each step lasts as long as the slowest of N steps drawn from those that one rank made at a time: slowness is "
    "chance, no machine is slower than the others for good.",
    "Reading data costs each machine what it costs here: a file server that all share is not in the figures.",
)
"""What the projection takes for granted, for people."""

OF_FACTORS = (
    "Factors of dense layers go round in a ring as they are: each rank gets those of all others, and takes as long to "
    "multiply them out as measured for so many images."
)
"""What it takes for granted besides, where factors travel."""

_MOST_OF_A_CORE = 0.9
"""Share of the cores that communication may take from computing."""

_INSTANT = 1e-9


@dataclass(frozen=True)
class Link:
    """What lies between the ranks.

    Attributes:
        bytes_per_second: That a rank sends in a ring, while it receives as many.
        latency: Seconds of one message of the ring.
        work_per_byte: Seconds by which a byte that is sent, and one that is received and added, delay what the same
            cores compute.
        slowed: How many times as long a transfer takes while the same cores compute.
        wake: Seconds that a small message takes longer where the ranks have computed before it.
        transfer_bytes: Size of the sums that the bandwidth was measured with; 0 where it was not.
        transfers: How many of them.
    """

    bytes_per_second: float
    latency: float
    work_per_byte: float
    slowed: float = 1.0
    wake: float = 0.0
    transfer_bytes: int = 0
    transfers: int = 0

    @property
    def without_latency(self) -> Link:
        """The same bandwidth and work, and every message there at once."""
        return replace(self, latency=0.0)

    def seconds(self, sent: float, messages: int) -> float:
        """Of sending so many bytes in a ring, in so many messages one after another."""
        return sent / self.bytes_per_second + messages * self.latency


INFINITE = Link(math.inf, 0.0, 0.0)
"""A network that costs nothing: neither time nor the cores' work."""


@dataclass(frozen=True)
class Traffic:
    """What travels in each step, and over what.

    Attributes:
        link: Between the ranks.
        wire: Bytes on the link for each byte of gradients: 0.5 with bf16; None where that cannot be told.
        products: Seconds by which multiplying out the factors of all ranks takes longer than those of one.
    """

    link: Link
    wire: float | None = 1.0
    products: float = 0.0


@dataclass(frozen=True)
class Parts:
    """Where the mean seconds of a step go; all but ``hidden`` add up to it.

    Attributes:
        input: Reading and augmenting the rank's images.
        forward: The network.
        backward: Computing gradients, as long as it takes without communication.
        work: How much longer it takes since the same cores send, receive and add.
        exposed: Waiting for gradients on their way, with nothing left to compute.
        waiting: Waiting for the slowest rank.
        agreement: The small messages by which all ranks stop, or fail, together.
        optimiser: New weights.
        bookkeeping: Sums and progress.
        hidden: Seconds in which gradients travelled during the backward pass, at no cost but ``work``.
    """

    input: float
    forward: float
    backward: float
    work: float
    exposed: float
    waiting: float
    agreement: float
    optimiser: float
    bookkeeping: float
    hidden: float = 0.0

    @property
    def total(self) -> float:
        """Seconds of the step."""
        return (
            self.input + self.forward + self.backward + self.work + self.exposed + self.waiting + self.agreement
            + self.optimiser + self.bookkeeping
        )  # fmt: skip


@dataclass(frozen=True)
class Profile:
    """The steps of one rank by itself, whose gradients went through the same buckets and to nobody.

    Attributes:
        input: Mean seconds, as all that follow.
        forward: Of the network.
        backward: Until the last gradients were ready.
        optimiser: New weights.
        bookkeeping: Sums and progress.
        messages: How many times a step the ranks agree on something.
        ready: When each bucket was, in seconds since the backward pass began.
        bytes: Of each bucket's gradients.
        are_factors: Which of the buckets are factors of a layer.
        deviations: Seconds by which every step was longer than the mean of its block, (n,). What slows a whole block
            slows all machines that are measured, and none waits for it.
    """

    input: float
    forward: float
    backward: float
    optimiser: float
    bookkeeping: float
    messages: float
    ready: tuple[float, ...]
    bytes: tuple[int, ...]
    are_factors: tuple[bool, ...]
    deviations: NDArray[np.float64]


def ring_bytes(size: float, ranks: int) -> float:
    """Bytes that each rank sends in a ring that sums ``size`` bytes."""
    return 2 * (ranks - 1) / ranks * size


def gathered_bytes(size: float, ranks: int) -> float:
    """Bytes that each rank sends, and gets, in a ring that gathers ``size`` bytes of each."""
    return (ranks - 1) * size


def ring_messages(ranks: int) -> int:
    """Messages that a ring takes one after another."""
    return 2 * (ranks - 1)


def profile_of(blocks: Sequence[Sequence[StepTimes]]) -> Profile:
    """The means over the steps of a rank that was by itself; each with the same buckets.

    Args:
        blocks: Of steps one after another.
    """
    steps = [step for block in blocks for step in block]
    totals = [np.array([step.total for step in block], dtype=np.float64) for block in blocks]
    buckets = [[(item.ready, item.bytes) for item in step.buckets] for step in steps]
    ready = np.array([[when for when, _ in found] for found in buckets], dtype=np.float64)
    return Profile(
        input=_mean(steps, "input"),
        forward=_mean(steps, "forward"),
        backward=float(np.mean([step.seconds["backward"] - step.wait for step in steps])),
        optimiser=_mean(steps, "optimiser"),
        bookkeeping=_mean(steps, "bookkeeping"),
        messages=float(np.mean([step.messages for step in steps])),
        ready=tuple(ready.mean(axis=0).tolist()),
        bytes=tuple(size for _, size in buckets[0]),
        are_factors=tuple(item.is_factors for item in steps[0].buckets),
        deviations=np.concatenate([of_block - of_block.mean() for of_block in totals]),
    )


def predict(profile: Profile, traffic: Traffic, ranks: int) -> Parts:
    """A step of so many ranks, each of which does what this one did by itself.

    Args:
        profile: Of the images that each rank has in a step.
        traffic: What travels between them; how many bytes is known.
        ranks: How many.
    """
    assert traffic.wire is not None
    link, backward = traffic.link, profile.backward + traffic.products
    transfers, works = [], []
    for size, is_factors in zip(profile.bytes, profile.are_factors, strict=True):
        if is_factors:
            sent, messages = gathered_bytes(size, ranks), ranks - 1
        else:
            sent, messages = ring_bytes(traffic.wire * size, ranks), ring_messages(ranks)
        transfers.append(link.seconds(sent, messages))
        works.append(link.work_per_byte * sent)
    computed, arrived, hidden = overlap(profile.ready, backward, transfers, works, link.slowed)
    return Parts(
        input=profile.input,
        forward=profile.forward,
        backward=backward,
        work=computed - backward,
        exposed=max(0.0, arrived - computed),
        waiting=expected_maximum(profile.deviations, ranks),
        agreement=profile.messages * (ring_messages(ranks) * link.latency + link.wake),
        optimiser=profile.optimiser,
        bookkeeping=profile.bookkeeping,
        hidden=hidden,
    )


def overlap(
    ready: Sequence[float], backward: float, transfers: Sequence[float], works: Sequence[float], slowed: float = 1.0
) -> tuple[float, float, float]:
    """Let buckets travel while the rest of the backward pass computes.

    Args:
        ready: Seconds of computing after which each bucket is ready, ascending.
        backward: Seconds of computing until the end.
        transfers: Seconds of each bucket's way with nothing else going on.
        works: Seconds of the cores' work that each takes, evenly over its way.
        slowed: How many times as long a way takes beside computing.

    Returns:
        Seconds until computing ends, seconds until the last bucket has arrived, and seconds in which both went on.
    """
    now = computed = hidden = 0.0
    finished: float | None = None
    for when, transfer, work in zip(ready, transfers, works, strict=True):
        alone = max(0.0, when - computed)
        now, computed = now + alone, computed + alone
        beside = slowed * transfer
        share = min(work / beside, _MOST_OF_A_CORE) if beside > 0 else 0.0
        together = min(beside, (backward - computed) / (1 - share))
        hidden += together
        computed += together * (1 - share)
        if finished is None and backward - computed <= _INSTANT:
            finished = now + together
        now += together + transfer - together / slowed
    return (now + backward - computed if finished is None else finished), now, hidden


def expected_maximum(values: NDArray[np.float64], draws: int) -> float:
    """The mean of the largest of several independent draws from these values."""
    ordered, n = np.sort(values), len(values)
    below = np.arange(n + 1) / n
    return float(ordered @ np.diff(below**draws))


def _mean(steps: Sequence[StepTimes], phase: str) -> float:
    return float(np.mean([step.seconds.get(phase, 0.0) for step in steps]))  # type: ignore[call-overload]
