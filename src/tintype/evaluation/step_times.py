"""What one rank measured of its training steps, as plain records that ranks exchange and files keep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

Phase = Literal["input", "forward", "backward", "agreement", "optimiser", "bookkeeping"]
"""A phase of a step: reading and augmenting its images; the network; its gradients, with what is left of the wait for
the other ranks'; the messages by which all ranks know what each has to say; the new weights; sums and progress."""

PHASES: tuple[Phase, ...] = get_args(Phase)


@dataclass(frozen=True)
class Bucket:
    """The way of a bucket of gradients, or of a layer's factors, in seconds since its backward pass began.

    Attributes:
        bytes: Of this rank's.
        ready: When this rank's were there.
        summed: When those of all ranks had been summed, or had come together.
        ended: When the backward pass, with its wait, was over.
        is_factors: Whether it is factors, which all ranks gather and multiply out.
    """

    bytes: int
    ready: float
    summed: float
    ended: float
    is_factors: bool = False


@dataclass(frozen=True)
class StepTimes:
    """One step of one rank.

    Attributes:
        seconds: Of each phase; the backward pass with its wait for the other ranks' gradients.
        buckets: In the order in which they were ready; none where no gradients travel.
        messages: How many times the ranks agreed on something.
        product: Seconds of the backward pass in which factors were multiplied out, after all gradients were ready.
    """

    seconds: Mapping[Phase, float]
    buckets: tuple[Bucket, ...] = ()
    messages: int = 0
    product: float = 0.0

    @property
    def total(self) -> float:
        """Seconds of the whole step."""
        return sum(self.seconds.values())

    @property
    def wait(self) -> float:
        """Seconds of the backward pass after this rank's last gradients were ready, with nothing to compute."""
        if not self.buckets:
            return 0.0
        return max(0.0, self.buckets[-1].ended - max(bucket.ready for bucket in self.buckets) - self.product)

    @property
    def hidden(self) -> float:
        """Seconds in which gradients travelled while this rank was still computing others."""
        if not self.buckets:
            return 0.0
        computed, reached, covered = max(bucket.ready for bucket in self.buckets), 0.0, 0.0
        for bucket in sorted(self.buckets, key=lambda item: item.ready):
            begun, ended = max(bucket.ready, reached), min(bucket.summed, computed)
            covered += max(0.0, ended - begun)
            reached = max(reached, bucket.summed)
        return covered


def steps_from(content: list[dict[str, Any]]) -> list[StepTimes]:
    """Steps as :func:`tintype.records.to_plain` wrote them."""
    return [StepTimes(**{**item, "buckets": tuple(Bucket(**bucket) for bucket in item["buckets"])}) for item in content]
