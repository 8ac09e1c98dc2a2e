"""Drawing in SVG without a plotting library: elements, scales, ticks.

Figures are written by hand because a report forbids inline styles (its Content-Security-Policy), follows the
reader's light or dark theme through CSS classes, and must cost neither 0.6 s of imports nor a font cache. Class
names do the colouring, and nothing here depends on the time, the machine or a random number.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape


def element(tag: str, *children: str, **attributes: str | float | None) -> Markup:
    """One SVG element.

    Attribute names are written with ``_`` for ``-`` and ``class_`` for ``class``; text and values are escaped,
    children that are Markup are taken as they are. An attribute that is ``None`` is left out.
    """
    parts = [tag]
    for name, value in attributes.items():
        if value is not None:
            shown = short(value) if isinstance(value, int | float) else value
            parts.append(f'{name.rstrip("_").replace("_", "-")}="{escape(shown)}"')
    opening = " ".join(parts)
    if not children:
        return Markup(f"<{opening}/>")
    return Markup(f"<{opening}>{''.join(str(escape(child)) for child in children)}</{tag}>")


def join(items: Iterable[Markup]) -> Markup:
    """Put elements one after the other."""
    return Markup("").join(items)


def short(value: float) -> str:
    """A coordinate to a tenth of a unit, without trailing zeros."""
    text = f"{value:.1f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def share(value: float) -> str:
    """A place on a 0-to-1 axis as a percentage of the drawing's width, clipped to it."""
    return f"{min(max(value, 0.0), 1.0) * 100:.2f}".rstrip("0").rstrip(".") + "%"


def path(xs: Sequence[float], ys: Sequence[float]) -> str:
    """The ``d`` attribute of a line through the points; points that fall on the last one are dropped."""
    steps: list[str] = []
    for x, y in zip(xs, ys, strict=True):
        step = f"{short(x)} {short(y)}"
        if not steps or step != steps[-1]:
            steps.append(step)
    return "M" + "L".join(steps)


@dataclass(frozen=True)
class Axis:
    """A range of values, its ticks and whether it is logarithmic.

    Attributes:
        label: What is measured, with its unit.
        low: Value at the start of the axis.
        high: Value at its end; greater than ``low``.
        ticks: Values that are labelled, with their labels.
        log: Logarithmic; ``low`` is then greater than 0.
    """

    label: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    log: bool = False

    def place(self, value: float, start: float, end: float) -> float:
        """Where ``value`` stands between the coordinates ``start`` and ``end``; outside values are clipped."""
        if self.log:
            low, high, value = math.log(self.low), math.log(self.high), math.log(max(value, self.low))
        else:
            low, high = self.low, self.high
        part = min(max((value - low) / (high - low), 0.0), 1.0)
        return start + part * (end - start)


def linear_axis(label: str, values: Iterable[float], *, floor: float | None = None, percent: bool = False) -> Axis:
    """An axis that begins and ends at round numbers about the values.

    Args:
        label: Name of the axis.
        values: Finite values to hold; at least one.
        floor: Lower end to use instead of the least value.
        percent: Label the ticks as percentages; the axis then ends at 1 at most.
    """
    known = list(values)
    low = min(known) if floor is None else floor
    high = max(known)
    if high - low < 1e-9:
        high = low + max(abs(low), 1.0) * 0.1
    step = _round_step((high - low) / 4)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    if percent:
        last = min(last, math.ceil(1 / step - 1e-9))
        first = min(first, last - 1)
    ticks = tuple((i * step, _tick_label(i * step, step, percent=percent)) for i in range(first, last + 1))
    return Axis(label, first * step, last * step, ticks)


def log_axis(label: str, values: Iterable[float]) -> Axis:
    """A logarithmic axis over whole powers of ten, with ticks at 1 (and at 2 and 5 on a short axis)."""
    known = [value for value in values if value > 0]
    first = math.floor(math.log10(min(known)) + 1e-9)
    last = max(math.ceil(math.log10(max(known)) - 1e-9), first + 1)
    factors = (1, 2, 5) if last - first <= 2 else (1,)
    step = max(1, math.ceil((last - first) / 6))
    values_at = [factor * 10.0**power for power in range(first, last + 1, step) for factor in factors]
    shown = [value for value in values_at if value <= 10.0**last * 1.000001]
    ticks = tuple((value, f"{value:,.0f}" if 1 <= value < 1e6 else f"{value:.3g}") for value in shown)
    return Axis(label, 10.0**first, 10.0**last, ticks, log=True)


def epoch_axis(epochs: Sequence[int]) -> Axis:
    """An axis of whole epochs; a single one stands in the middle."""
    low, high = float(min(epochs)), float(max(epochs))
    if low == high:
        return Axis("epoch", low - 1, high + 1, ((low, f"{low:.0f}"),))
    step = max(1, round(_round_step((high - low) / 5)))
    marks = {low, high} | {float(i) for i in range(0, int(high) + 1, step) if low < i < high}
    # A round tick that would touch the last one is dropped: the last epoch is what a reader looks for.
    kept = [mark for mark in sorted(marks) if mark in (low, high) or (high - mark > step / 2 and mark - low > step / 2)]
    return Axis("epoch", low, high, tuple((mark, f"{mark:.0f}") for mark in kept))


def _round_step(raw: float) -> float:
    """The least of 1, 2, 2.5 or 5 times a power of ten that is not below ``raw``."""
    power = 10.0 ** math.floor(math.log10(raw))
    return next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * (1 - 1e-9))


def _tick_label(value: float, step: float, *, percent: bool) -> str:
    scale = 100 if percent else 1
    decimals = next((d for d in range(8) if abs(round(step * scale, d) - step * scale) < 1e-9 * scale), 8)
    return f"{value * scale:.{decimals}f}" if abs(value) < 1e6 else f"{value * scale:.3g}"
