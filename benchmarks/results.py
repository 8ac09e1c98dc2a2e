"""From rows to figures, ratios and the Markdown of RESULTS.md. No process is started and no clock read here."""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from workloads import Measure, Workload

INTRODUCTION = """# Results

Made by `python benchmarks/run.py`; [README.md](README.md) says what is measured and why the comparison is fair.
Each section is one day on one machine. The rows behind the figures are in `results/`.
"""


@dataclass(frozen=True)
class Row:
    """One turn of one contender.

    Attributes:
        workload: Name of the workload.
        contender: Name of the contender.
        repeat: Number of the round, which is also the seed.
        measures: Key to figure; None where the contender did not get there.
        peak_rss_mib: Resident memory of the contender's largest process at its peak.
        wall_seconds: From start to end of the process.
        other_cores: Cores that others kept busy meanwhile, or were withheld; None where it cannot be told.
        versions: Library to version, as the contender said it.
        details: Whatever else the contender said.
    """

    workload: str
    contender: str
    repeat: int
    measures: dict[str, float | None]
    peak_rss_mib: float
    wall_seconds: float
    other_cores: float | None
    versions: dict[str, str]
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Figure:
    """One contender's figure over all repeats.

    Attributes:
        contender: Name of the contender.
        value: Median or mean; None unless every repeat got there.
        low: Smallest of the repeats that got there.
        high: Largest of them.
        n: Repeats.
        reached: Repeats that got there.
        peak_rss_mib: Median over the repeats.
    """

    contender: str
    value: float | None
    low: float
    high: float
    n: int
    reached: int
    peak_rss_mib: float


@dataclass(frozen=True)
class Ratio:
    """How far tintype is ahead of one contender (above 1: tintype is better).

    Attributes:
        contender: The other one.
        value: Ratio of the two figures, or their difference (above 0: tintype is better) where the measure compares
            differences; None where one of them has no value.
        low: Smallest within one round.
        high: Largest within one round.
        required: Ratio asked for, if any.
        aim: Ratio hoped for, if any.
    """

    contender: str
    value: float | None
    low: float
    high: float
    required: float | None
    aim: float | None

    @property
    def verdict(self) -> str:
        """``met``, ``not met``, or nothing where no ratio is asked for."""
        if self.required is None:
            return ""
        return "met" if self.value is not None and self.value >= self.required else "not met"


def figures(rows: Iterable[Row], workload: Workload, measure: Measure) -> list[Figure]:
    """Put the repeats together, in the order of the workload's contenders; absent contenders are left out."""
    found = []
    for contender in workload.contenders:
        own = [row for row in rows if (row.workload, row.contender) == (workload.name, contender.name)]
        if not own:
            continue
        values = [value for row in own if (value := row.measures[measure.key]) is not None]
        average = statistics.median if measure.average == "median" else statistics.fmean
        found.append(
            Figure(
                contender=contender.name,
                value=average(values) if len(values) == len(own) else None,
                low=min(values, default=math.nan),
                high=max(values, default=math.nan),
                n=len(own),
                reached=len(values),
                peak_rss_mib=statistics.median(row.peak_rss_mib for row in own),
            )
        )
    return found


def ratios(rows: Sequence[Row], workload: Workload, measure: Measure) -> list[Ratio]:
    """Compare tintype, the workload's first contender, with each of the others."""
    found_figures = figures(rows, workload, measure)
    if not found_figures or found_figures[0].contender != workload.contenders[0].name:
        return []
    ours, *others = found_figures
    found = []
    for theirs in others:
        rounds = [
            _ahead(own, other, measure)
            for own, other in _rounds(rows, workload.name, measure.key, ours.contender, theirs.contender)
        ]
        known = ours.value is not None and theirs.value is not None
        found.append(
            Ratio(
                contender=theirs.contender,
                value=_ahead(ours.value or 0.0, theirs.value or 0.0, measure) if known else None,
                low=min(rounds, default=math.nan),
                high=max(rounds, default=math.nan),
                required=measure.required.get(theirs.contender),
                aim=measure.aim.get(theirs.contender),
            )
        )
    return found


def _rounds(rows: Sequence[Row], workload: str, key: str, ours: str, theirs: str) -> list[tuple[float, float]]:
    by_turn = {(row.contender, row.repeat): row.measures[key] for row in rows if row.workload == workload}
    pairs = []
    for (contender, repeat), value in by_turn.items():
        other = by_turn.get((theirs, repeat))
        if contender == ours and value is not None and other is not None:
            pairs.append((value, other))
    return pairs


def _ahead(ours: float, theirs: float, measure: Measure) -> float:
    better, worse = (ours, theirs) if measure.higher_is_better else (theirs, ours)
    return better - worse if measure.compared == "difference" else better / worse


def format_section(heading: str, rows: Sequence[Row], workloads: Iterable[Workload], machine: dict[str, str]) -> str:
    """The Markdown of one day on one machine: hardware, versions, then a table for each measure that has rows."""
    lines = [f"## {heading}", ""]
    lines += [f"- {name}: {value}" for name, value in machine.items()]
    lines += [f"- Versions: {_versions(rows)}", f"- {_quietness(rows)}", ""]
    for workload in workloads:
        if any(row.workload == workload.name for row in rows):
            for measure in workload.measures:
                lines += _table(rows, workload, measure)
    return "\n".join(lines)


def _table(rows: Sequence[Row], workload: Workload, measure: Measure) -> list[str]:
    ahead = {ratio.contender: ratio for ratio in ratios(rows, workload, measure)}
    lines = [
        f"### {measure.title}",
        "",
        f"| contender | {measure.average} ({measure.unit}) | range | n | peak RSS (MiB) | tintype ahead | asked for |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for figure in figures(rows, workload, measure):
        value = f"not reached in {figure.n - figure.reached}" if figure.value is None else _number(figure.value)
        cells = [
            figure.contender,
            value,
            f"{_number(figure.low)} to {_number(figure.high)}" if figure.reached else "-",
            str(figure.n),
            f"{figure.peak_rss_mib:.0f}",
            *_ratio_cells(ahead.get(figure.contender), measure),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _ratio_cells(ratio: Ratio | None, measure: Measure) -> tuple[str, str]:
    if ratio is None:
        return "", ""
    if ratio.value is None:
        value = "-"
    elif measure.compared == "difference":
        value = f"{ratio.value:+.2f} {measure.unit} ({ratio.low:+.2f} to {ratio.high:+.2f})"
    else:
        value = f"{ratio.value:.2f}x ({ratio.low:.2f} to {ratio.high:.2f})"
    if ratio.required is None:
        return value, ""
    if measure.compared == "difference":
        return value, f"at least {ratio.required:+g} {measure.unit}: {ratio.verdict}"
    aim = "" if ratio.aim is None else f", aim {ratio.aim:g}x"
    return value, f"{ratio.required:g}x{aim}: {ratio.verdict}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _versions(rows: Iterable[Row]) -> str:
    found: dict[str, set[str]] = {}
    for row in rows:
        for library, version in row.versions.items():
            found.setdefault(library, set()).add(version)
    return ", ".join(f"{library} {' and '.join(sorted(found[library]))}" for library in sorted(found))


def _quietness(rows: Iterable[Row]) -> str:
    busy = [row.other_cores for row in rows if row.other_cores is not None]
    if not busy:
        return "Other load: not known on this system"
    return f"Other load while measuring: median {statistics.median(busy):.2f}, at most {max(busy):.2f} cores"


def write_section(folder: Path, heading: str, section: str) -> None:
    """Put a section into the folder's RESULTS.md, in place of an earlier one of the same heading."""
    page = folder / "RESULTS.md"
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    page.write_text(replace_section(text, heading, section), encoding="utf-8")


def replace_section(text: str, heading: str, section: str) -> str:
    """Put a section in place of the one with the same heading, or before all others where there is none."""
    introduction, *sections = re.split(r"(?m)^(?=## )", text or INTRODUCTION)
    section = section.rstrip() + "\n"
    titles = [part.partition("\n")[0] for part in sections]
    if f"## {heading}" in titles:
        sections[titles.index(f"## {heading}")] = section
    else:
        sections.insert(0, section)
    return "\n".join(part.rstrip() + "\n" for part in (introduction, *sections))


def read_rows(path: Path) -> list[Row]:
    """Read rows written by :func:`write_rows`; none where there is no file."""
    if not path.exists():
        return []
    return [Row(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write rows as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(asdict(row), allow_nan=False) + "\n" for row in rows), encoding="utf-8")
