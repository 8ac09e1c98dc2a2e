"""Figures as words: percentages, intervals, counts and durations as a reader expects them."""

from __future__ import annotations

import math
from typing import Any

from tintype.records import Interval

NBSP = "\u00a0"
ABSENT = "–"

METRIC_NAMES = {
    "accuracy": "Accuracy",
    "accuracy_without_leaked": "Accuracy without leaked images",
    "accuracy_leaked": "Accuracy on leaked images",
    "balanced_accuracy": "Balanced accuracy",
    "top5_accuracy": "Top-5 accuracy",
    "loss": "Loss (cross-entropy, nats)",
    "macro_precision": "Precision, macro",
    "macro_recall": "Recall, macro",
    "macro_f1": "F1, macro",
    "micro_precision": "Precision, micro",
    "micro_recall": "Recall, micro",
    "micro_f1": "F1, micro",
    "weighted_precision": "Precision, weighted",
    "weighted_recall": "Recall, weighted",
    "weighted_f1": "F1, weighted",
    "auc": "Area under the ROC curve",
    "average_precision": "Average precision",
    "ece": "Expected calibration error",
    "brier": "Brier score",
    "temperature": "Temperature",
}
"""Metric to the words a report uses for it, in the order of the report."""

_NOT_SHARES = frozenset({"loss", "brier", "temperature", "auc", "average_precision"})

# Characters that turn the order of what follows, by which a name can show itself as another.
_OVERRIDES = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"

SPLIT_WORDS = {"train": "training", "validation": "validation", "test": "test"}


def metric_name(metric: str) -> str:
    """Words for a metric; an unknown one is shown under its own name."""
    return METRIC_NAMES.get(metric, metric.replace("_", " ").capitalize())


def is_share(metric: str) -> bool:
    """True where a metric is read as a percentage."""
    return metric.split("/")[0] not in _NOT_SHARES


def count(number: float) -> str:
    """A whole number with thousands separated: ``10,000``."""
    return f"{int(number):,}"


def plural(number: int, singular: str, more: str = "") -> str:
    """``1 image``, ``360 images``."""
    return f"{count(number)}{NBSP}{singular if number == 1 else more or singular + 's'}"


def decimals_for(n: int) -> int:
    """Decimals of a percentage so that one image among ``n`` shows: 1 up to 1,000 images, 2 above."""
    return 1 if n <= 1000 else 2


def percent(value: float | None, n: int = 0, *, unit: bool = True) -> str:
    """A share as a percentage; never rounded up to 100 % or down to 0 % when it is not that.

    Args:
        value: The share, 0 to 1; ``None`` or NaN gives a dash.
        n: Images behind it, which sets the decimals.
        unit: Whether to add the percent sign.
    """
    if value is None or not math.isfinite(value):
        return ABSENT
    tail = f"{NBSP}%" if unit else ""
    if value in (0.0, 1.0):
        return f"{value * 100:.0f}{tail}"
    for decimals in range(decimals_for(n), 5):
        text = f"{value * 100:.{decimals}f}"
        if float(text) not in (0.0, 100.0):
            break
    return f"{text}{tail}"


def number(value: float | None) -> str:
    """A figure that is no share, to three significant digits or three decimals, whichever says more."""
    if value is None or not math.isfinite(value):
        return ABSENT
    if value != 0 and abs(value) < 0.1:
        return f"{value:.3g}"
    return f"{value:.3f}" if abs(value) < 100 else f"{value:,.1f}"


def figure(metric: str, interval: Interval) -> str:
    """The point estimate of a metric, as a percentage where it is a share."""
    return percent(interval.value, interval.n) if is_share(metric) else number(interval.value)


def interval_range(metric: str, interval: Interval) -> str:
    """The interval of a metric: ``97.2 to 99.6 %``; empty where it has none."""
    if not _has_range(interval):
        return ""
    if is_share(metric):
        low, high = percent(interval.low, interval.n, unit=False), percent(interval.high, interval.n)
    else:
        low, high = number(interval.low), number(interval.high)
    return f"{low} to {high}"


def points(value: float, *, sign: bool = True) -> str:
    """A difference of two shares in percentage points, with a real minus sign: ``−28.1 points``."""
    text = f"{abs(value) * 100:.1f}"
    mark = "" if not sign or float(text) == 0 else ("+" if value > 0 else "−")
    return f"{mark}{text}{NBSP}points"


def signed(value: float) -> str:
    """A difference of two figures that are no shares, with its sign."""
    return ("+" if value > 0 else "−" if value < 0 else "") + number(abs(value))


def duration(seconds: float) -> str:
    """Seconds as people say them: ``0.4 s``, ``42 s``, ``7 min 12 s``, ``2 h 5 min``."""
    if seconds < 9.95:
        return f"{seconds:.1f}{NBSP}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{NBSP}s"
    if whole < 3600:
        return f"{whole // 60}{NBSP}min {whole % 60}{NBSP}s"
    minutes = round(seconds / 60)
    return f"{minutes // 60}{NBSP}h {minutes % 60}{NBSP}min"


def megabytes(value: float) -> str:
    """Memory given in MB, in GB from 1,000 on."""
    return f"{value / 1000:.2f}{NBSP}GB" if value >= 1000 else f"{value:.0f}{NBSP}MB"


def printable(value: Any) -> Any:
    """Replace what no text file can hold: undecodable bytes of file names and control characters.

    Works through lists, tuples and dictionaries, keys included; anything else comes back as it is.
    """
    if isinstance(value, str):
        return "".join(_visible(char) for char in value)
    if isinstance(value, dict):
        return {printable(key): printable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(printable(item) for item in value)
    return value


def _visible(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was no UTF-8, as os.fsdecode leaves it
        return f"\\x{code - 0xDC00:02x}"
    if 0xD800 <= code <= 0xDFFF or (code < 32 and char not in "\t\n") or 0x7F <= code < 0xA0 or char in _OVERRIDES:
        return "\ufffd"
    return char


def _has_range(interval: Interval) -> bool:
    ends = (interval.low, interval.high)
    return all(end is not None and math.isfinite(end) for end in ends) and interval.low != interval.high
