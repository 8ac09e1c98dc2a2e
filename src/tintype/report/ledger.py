"""How often a test set was looked at, as the report says it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tintype.ledger import HANDFUL, selection_bias
from tintype.report import text
from tintype.report.reading import of_this_version

_MOST_ROWS = 20


@dataclass(frozen=True)
class LedgerView:
    """The section's content.

    Attributes:
        lead: How many models were judged on the test images, and what that means.
        rows: Time, run, verb and accuracy of each look, the latest first.
        left_out: How many earlier ones are not shown.
    """

    lead: str
    rows: tuple[tuple[str, str, str, str], ...]
    left_out: int


def ledger_view(content: Mapping[str, Any]) -> LedgerView | None:
    """The section on looks at the test set; None where nothing was recorded.

    Args:
        content: Of ``ledger.json``, or nothing.

    Raises:
        RunError: The file is from another version.
    """
    if not content:
        return None
    with of_this_version("ledger.json"):
        looks, n = int(content["looks"]), int(content["n"])
        rows = tuple(
            (
                str(row["time"])[:16].replace("T", " "),
                str(row["run"]),
                str(row["what"]),
                text.percent(row["accuracy"], n),
            )
            for row in reversed(content["known"])
        )
        lead = _lead(looks, n, float(content["accuracy"]))
    return LedgerView(lead, rows[:_MOST_ROWS], max(0, len(rows) - _MOST_ROWS))


def _lead(looks: int, n: int, accuracy: float) -> str:
    images = text.plural(n, "test image")
    if looks <= 1:
        return f"This is the first model that was judged on these {images} here: nothing was chosen by them."
    words = f"{text.count(looks)} models were judged on these {images} here, this one included."
    bias = text.points(selection_bias(looks, n, accuracy), sign=False)
    if looks <= HANDFUL:
        return f"{words} If the best of them is taken, its accuracy is too good by up to {bias}."
    return (
        f"{words} That is more than a handful: if the best of them is taken, its accuracy is too good by up to {bias}. "
        "Take new test images for a figure to rely on."
    )
