"""Plant copies of test images among the training images and see which of them the audit finds.

`python benchmarks/leakage.py --data DIR` plants copies of `cats_dogs` test photos, each changed in one way, in a copy
of the data, and audits it before and after. `--mnist` also times the audit of MNIST's 70,000 images. The figures go to
`results/DAY.jsonl` and, as a section of its own, to RESULTS.md.
"""

from __future__ import annotations

import argparse
import datetime
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import machine
import numpy as np
from PIL import Image, ImageEnhance, ImageOps
from results import Row, read_rows, write_rows, write_section

from tintype import __version__
from tintype.config import DataConfig, RunConfig
from tintype.data.audit import audit
from tintype.evaluation.stats import wilson
from tintype.preparing import Prepared, prepare_data
from tintype.records import Interval
from tintype.watch import Watch

HERE = Path(__file__).resolve().parent
DATA = HERE.parents[1] / "shared" / "data"
LEAST_RECALL, LEAST_PRECISION, MOST_SECONDS = 0.95, 0.99, 30.0
OF_EACH_KIND = 100
_FINE = 95  # JPEG quality

Change = Callable[[Path, Path], None]


def _reencoded(source: Path, target: Path) -> None:
    with Image.open(source) as image:
        image.save(target, quality=75)


def _resized(source: Path, target: Path) -> None:
    with Image.open(source) as image:
        size = (round(image.width * 0.75), round(image.height * 0.75))
        image.resize(size, Image.Resampling.BICUBIC).save(target, quality=_FINE)


def _flipped(source: Path, target: Path) -> None:
    with Image.open(source) as image:
        ImageOps.mirror(image).save(target, quality=_FINE)


def _brightened(source: Path, target: Path) -> None:
    with Image.open(source) as image:
        ImageEnhance.Brightness(image).enhance(1.25).save(target, quality=_FINE)


def _exact(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)


CHANGES: dict[str, Change] = {
    "exact": _exact,
    "re-encoded (JPEG, quality 75)": _reencoded,
    "resized (x 0.75)": _resized,
    "flipped": _flipped,
    "brightened (x 1.25)": _brightened,
}
NO_REQUIREMENT = frozenset({"brightened (x 1.25)"})


@dataclass(frozen=True)
class Found:
    """What the audit found of what was planted.

    Attributes:
        recall: Kind of copy to the share of its test images that the audit names as leaked.
        precision: Share of the images it names that have a planted copy; those it named before do not count.
        before: Test images that it names in the data as they are.
        image_size: Side in pixels at which it looked.
        seconds: Of the audit with the planted copies, without decoding.
        images: How many it looked at.
    """

    recall: dict[str, Interval]
    precision: Interval
    before: tuple[str, ...]
    image_size: int
    seconds: float
    images: int


def measure(source: Path, folder: Path, of_each: int, seed: int) -> Found:
    """Copy a folder with ``train/CLASS`` and ``test/CLASS``, audit it, plant copies and audit it again.

    Args:
        source: The images.
        folder: Made here.
        of_each: How many copies of each kind.
        seed: Of the choice of test images.
    """
    shutil.copytree(source, folder)
    before = leaked_names(prepared(folder))
    tests = sorted(path for path in (folder / "test").rglob("*") if path.is_file())
    chosen = np.random.default_rng(seed).choice(len(tests), of_each * len(CHANGES), replace=False).tolist()
    planted: dict[str, set[str]] = {}
    for number, (kind, change) in enumerate(CHANGES.items()):
        planted[kind] = set()
        for place in chosen[number * of_each : (number + 1) * of_each]:
            path = tests[place]
            # In training's folder of the same class, under a name that says nothing.
            change(path, folder / "train" / path.parent.name / f"planted{number}{place:06}{path.suffix}")
            planted[kind].add(path.relative_to(folder).as_posix())
    data = prepared(folder)
    with nothing_kept():
        begin = time.perf_counter()
        audit(data.cache, data.split)
        seconds = time.perf_counter() - begin
    found = leaked_names(data) - before
    everything = set().union(*planted.values()) - before
    return Found(
        recall={kind: wilson(len((names - before) & found), len(names - before)) for kind, names in planted.items()},
        precision=wilson(len(found & everything), len(found)),
        before=tuple(sorted(before)),
        image_size=data.cache.geometry.size,
        seconds=seconds,
        images=sum(len(part) for part in (data.split.train, data.split.validation, data.split.test)),
    )


def prepared(folder: Path) -> Prepared:
    """The data as `tintype train` reads, decodes, splits and audits it."""
    return prepare_data(RunConfig(data=DataConfig(source=str(folder))), Watch())


def leaked_names(data: Prepared) -> set[str]:
    """Test images that stand in training or validation too."""
    return {data.cache.index.paths[row] for row in data.audit.leaked_test.tolist()}


@contextmanager
def nothing_kept() -> Iterator[None]:
    """A cache folder of its own: what an earlier audit of the same images kept would be found at once."""
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, {"TINTYPE_CACHE": folder}):
        yield


def time_mnist(source: Path) -> tuple[float, int, int]:
    """Seconds of the audit of MNIST's images, how many they are, and how many findings it has."""
    data = prepared(source)
    with nothing_kept():
        begin = time.perf_counter()
        findings = audit(data.cache, data.split).findings
        seconds = time.perf_counter() - begin
    return seconds, sum(len(part) for part in (data.split.train, data.split.validation, data.split.test)), len(findings)


def row_of(found: Found, mnist: tuple[float, int, int] | None, wall_seconds: float, seed: int) -> Row:
    """The figures as a row of ``results/DAY.jsonl``."""
    measures: dict[str, float | None] = {f"recall, {kind}": item.value for kind, item in found.recall.items()}
    measures |= {"precision": found.precision.value, "audit_seconds": round(found.seconds, 2)}
    details: dict[str, object] = {
        "n": {kind: item.n for kind, item in found.recall.items()} | {"precision": found.precision.n},
        "found_before": list(found.before),
        "image_size": found.image_size,
        "images": found.images,
    }
    if mnist is not None:
        measures["mnist_audit_seconds"] = round(mnist[0], 2)
        details["mnist_images"], details["mnist_findings"] = mnist[1:]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return Row(
        "planted leakage", "tintype", seed, measures, round(memory, 1), round(wall_seconds, 3), None,
        {"tintype": __version__}, details,
    )  # fmt: skip


def section_of(heading: str, found: Found, mnist: tuple[float, int, int] | None) -> str:
    """The figures in Markdown."""
    lines = [f"## {heading}", "", *(f"- {name}: {value}" for name, value in machine.describe().items())]
    lines += [
        f"- {found.images:,} photos of `cats_dogs` at {found.image_size} px, audited in {found.seconds:.1f} s; in the "
        f"data as they are the audit names {len(found.before)} test images, which do not count",
        "",
        "| planted copies | recall | 95 % interval | n | asked for |",
        "| --- | ---: | ---: | ---: | --- |",
    ]
    for kind, item in found.recall.items():
        least = None if kind in NO_REQUIREMENT else LEAST_RECALL
        lines.append(_table_row(kind, item, least))
    lines += [_table_row("all: precision", found.precision, LEAST_PRECISION), ""]
    if mnist is not None:
        verdict = "met" if mnist[0] < MOST_SECONDS else "not met"
        lines += [
            f"MNIST: {mnist[1]:,} images audited in {mnist[0]:.1f} s (asked for: under {MOST_SECONDS:.0f} s: "
            f"{verdict}), {mnist[2]} findings.",
            "",
        ]
    return "\n".join(lines)


def _table_row(name: str, item: Interval, least: float | None) -> str:
    asked = "" if least is None else f"{least}: {'met' if item.value >= least else 'not met'}"
    return f"| {name} | {item.value:.3f} | {item.low:.3f} to {item.high:.3f} | {item.n} | {asked} |"


def save(folder: Path, row: Row, found: Found, mnist: tuple[float, int, int] | None) -> str:
    """Put the row in place of the same day's earlier one, and the section into RESULTS.md; gives the section."""
    today = datetime.date.today().isoformat()
    path = folder / "results" / f"{today}.jsonl"
    write_rows(path, [*(item for item in read_rows(path) if item.workload != row.workload), row])
    heading = f"{today}, planted leakage, {machine.processor()}"
    section = section_of(heading, found, mnist)
    write_section(folder, heading, section)
    return section


def main() -> int:
    """Measure, write the row and the section; gives 1 where what is asked for is not met."""
    arguments = _arguments()
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="tintype-leakage-") as scratch:
        found = measure(arguments.data / "cats_dogs", Path(scratch) / "data", arguments.of_each, arguments.seed)
    mnist = time_mnist(arguments.data / "mnist") if arguments.mnist else None
    row = row_of(found, mnist, time.perf_counter() - begin, arguments.seed)
    print(save(arguments.output, row, found, mnist))
    asked = [item.value >= LEAST_RECALL for kind, item in found.recall.items() if kind not in NO_REQUIREMENT]
    is_met = all(asked) and found.precision.value >= LEAST_PRECISION and (mnist is None or mnist[0] < MOST_SECONDS)
    return 0 if is_met else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help="folder with cats_dogs/ and, for --mnist, mnist/")
    parser.add_argument("--mnist", action="store_true", help="time the audit of MNIST's 70,000 images as well")
    parser.add_argument("--of-each", type=int, default=OF_EACH_KIND, help="copies of each kind")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of test images")
    parser.add_argument("--output", type=Path, default=HERE, help="folder for RESULTS.md and results/")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
