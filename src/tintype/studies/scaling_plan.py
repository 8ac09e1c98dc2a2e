"""What a study of scaling measures, as the ``[scaling]`` table of its file says it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from tintype.errors import ConfigError

Mode = Literal["strong", "weak"]

RANKS = "ranks"
"""What the axis of such a study is called."""

ONE_RANK: tuple[str, dict[str, Any]] = ("1 rank", {"parallel.workers": 1})
"""Name and settings of the point that the others are compared with."""


class ScalingPlan(BaseModel):
    """The settings of a study of scaling."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    ranks: list[int] = Field([], description="how many ranks, each of these; by default all numbers there are")
    modes: list[Mode] = Field(
        ["strong", "weak"], min_length=1, description="strong: they share the batch; weak: a batch each"
    )
    blocks: int = Field(8, ge=2, description="how often each is measured, in turn")
    steps: int = Field(10, ge=2, description="steps in a block, after three that do not count")
    machines: list[int] = Field([2, 4, 8, 16], description="what is projected")
    weak_rate: Literal["linear", "same"] = Field(
        "linear", description="the learning rate where each rank has a batch: grows with their number, or stays"
    )

    def ranks_of(self, size: int) -> tuple[int, ...]:
        """How many ranks are measured where there are so many; one is always among them.

        Raises:
            ConfigError: More are wanted than there are, or fewer than one.
        """
        wanted = sorted({1, *(self.ranks or range(1, size + 1))})
        if wanted[0] < 1 or wanted[-1] > size:
            raise ConfigError(f"scaling.ranks takes numbers from 1 to {size}, the ranks there are. Got {self.ranks}.")
        return tuple(wanted)

    def to_plain(self) -> dict[str, Any]:
        """As it stands in a study file."""
        return self.model_dump()
