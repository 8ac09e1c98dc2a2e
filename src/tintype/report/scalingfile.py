"""``scaling.json``: what a study of scaling measured, written by :mod:`tintype.studies` and read for the report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tintype.evaluation.scaling import Projection, ScalingPoint
from tintype.evaluation.scaling_model import Link, Parts
from tintype.records import Interval
from tintype.report.reading import read_table

SCALING_FORMAT = 2
SCALING_FILE = "scaling.json"

_INTERVALS = ("seconds", "images_per_second", "speed_up", "efficiency")


@dataclass(frozen=True)
class Scaling:
    """What was measured, and what follows from it.

    Attributes:
        format: Changes when this format does.
        name: Of the study.
        asked: The number of ranks and the study's ``[scaling]``; other ones are measured anew.
        hosts: The machine of each rank.
        threads: Of each rank.
        precision: ``fp32`` or ``bf16``.
        batch: Images in a step of one rank.
        train_images: To train on.
        comm: How gradients travelled, as ``parallel.comm``.
        factored: Layers that send factors in place of gradients, wherever those are less.
        gradient_bytes: Of a step, before they travel.
        wire: Bytes on the link for each byte of gradients; None where nothing is projected.
        link: Between the ranks.
        sharing: How many times as long a step of one rank takes while the others compute too, each by itself.
        points: So many ranks, in each mode; the first of a mode is one rank.
        projections: So many machines, in each mode.
        assumptions: Of the projections, in words.
    """

    format: int
    name: str
    asked: dict[str, Any]
    hosts: tuple[str, ...]
    threads: int
    precision: str
    batch: int
    train_images: int
    comm: str
    factored: tuple[str, ...]
    gradient_bytes: int
    wire: float | None
    link: Link
    sharing: float
    points: tuple[ScalingPoint, ...]
    projections: tuple[Projection, ...]
    assumptions: tuple[str, ...]

    @property
    def modes(self) -> tuple[str, ...]:
        """``strong`` and ``weak``, those that were measured."""
        return tuple(dict.fromkeys(point.mode for point in self.points))

    def of(self, mode: str) -> tuple[ScalingPoint, ...]:
        """The points of a mode, by their ranks."""
        return tuple(point for point in self.points if point.mode == mode)


def read_scaling(folder: Path) -> Scaling:
    """Read ``scaling.json``.

    Raises:
        RunError: There is none, it is damaged, or it is from another version.
    """
    return read_table(folder, SCALING_FILE, SCALING_FORMAT, "scaling study", _scaling)


def _scaling(content: dict[str, Any]) -> Scaling:
    return Scaling(
        **{
            **content,
            "hosts": tuple(content["hosts"]),
            "factored": tuple(content["factored"]),
            "link": Link(**content["link"]),
            "points": tuple(_point(item) for item in content["points"]),
            "projections": tuple(
                Projection(**{**item, "parts": Parts(**item["parts"])}) for item in content["projections"]
            ),
            "assumptions": tuple(content["assumptions"]),
        }
    )


def _point(content: dict[str, Any]) -> ScalingPoint:
    intervals = {name: Interval(**content[name]) for name in _INTERVALS}
    predicted = Parts(**content["predicted"]) if content["predicted"] else None
    return ScalingPoint(**{**content, **intervals, "parts": Parts(**content["parts"]), "predicted": predicted})
