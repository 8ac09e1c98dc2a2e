"""What a search may vary: the interface that every space has, and what it draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class Candidate:
    """One model to be tried.

    Attributes:
        settings: Values by their dotted names, as ``RunConfig.replace`` takes them; with the base settings of the
            search they make a whole run.
        features: Not empty: only a head trains, on kept features. Candidates with the same key stand on the same
            features, and can train together.
    """

    settings: Mapping[str, Any]
    features: str = ""


@dataclass(frozen=True)
class Images:
    """What a space must know of the images.

    Attributes:
        size: Side in pixels that they are brought to.
        channels: 1 (grey) or 3 (colour).
        training: How many there are to train on.
        classes: Number of classes.
    """

    size: int
    channels: int
    training: int
    classes: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one."""
        return self.channels, self.size, self.size


class Space(Protocol):
    """The models among which a search looks for the best."""

    @property
    def name(self) -> str:
        """``scratch``, ``transfer`` or ``own``."""
        ...

    @property
    def reason(self) -> str:
        """Why this space for these images: one clause, for people."""
        ...

    def draw(self, trial: optuna.Trial) -> Candidate:
        """Ask the trial for its parameters, and make settings of them."""
        ...

    def first(self) -> Sequence[Mapping[str, Any]]:
        """Parameters that are tried before any are sampled; what they leave out is sampled."""
        ...
