"""Plant every fault that the diagnosis knows, and train ten sensible runs: `python benchmarks/diagnosis.py --help`.

Prints two tables in Markdown: of each planted fault the finding that came first, and of each sensible run what the
diagnosis found, which should be nothing. The images and the networks are those of the tests.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
BESIDE_THE_CHECKOUT = HERE.parents[1] / "shared"
sys.path.insert(0, str(HERE.parent / "tests"))

import healthy_runs  # noqa: E402
import planted_data  # noqa: E402
import planted_networks  # noqa: E402

from tintype.api import diagnose, train  # noqa: E402
from tintype.errors import NonFiniteError  # noqa: E402
from tintype.records import Finding, Interval  # noqa: E402


@dataclass(frozen=True)
class Planted:
    """What a diagnosis said of one planted fault.

    Attributes:
        fault: In words.
        wanted: The code that has to come first.
        found: The diagnosis, over the seeds.
    """

    fault: str
    wanted: str
    found: tuple[list[Finding], ...]

    @property
    def right(self) -> int:
        """In how many of the runs the fault was named first."""
        return sum(bool(findings) and findings[0].code == self.wanted for findings in self.found)


def main() -> int:
    """Run what was asked for and print the tables; the exit code is 1 where a fault was missed or a run blamed."""
    arguments = _arguments()
    everything_right = True
    if "planted" in arguments.only:
        planted = list(plant_all(arguments.seeds))
        print("\n".join(planted_table(planted)), flush=True)
        everything_right &= all(item.right == len(item.found) for item in planted)
    if "healthy" in arguments.only:
        healthy = list(train_healthy(arguments.data, arguments.weights))
        print("\n".join(["", *healthy_table(healthy)]), flush=True)
        everything_right &= all(not _alarms(found) for _, _, found in healthy)
    return 0 if everything_right else 1


def plant_all(seeds: int) -> Iterator[Planted]:
    """Train a run with each fault and each seed, of the images and of the training, and diagnose it."""
    for plant in (*planted_data.PLANTS, *planted_networks.PLANTS):
        found = []
        for seed in range(seeds):
            with tempfile.TemporaryDirectory() as folder:
                path, options = plant.write(Path(folder), seed)
                run = Path(folder) / "run"
                try:
                    train(path, output=run, seed=seed, **options)
                except NonFiniteError:
                    _say(f"{plant.fault}: the training stopped, as it should")
                found.append(diagnose(run))
        planted = Planted(plant.fault, plant.code, tuple(found))
        _say(f"{plant.fault}: named first in {planted.right} of {seeds}")
        yield planted


def train_healthy(data: Path, weights: Path) -> Iterator[tuple[healthy_runs.HealthyRun, Interval, list[Finding]]]:
    """Train the sensible runs and diagnose each; gives the accuracy on test images and the findings."""

    def find(name: str) -> Path:
        return data / name

    for healthy in healthy_runs.HEALTHY:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["TINTYPE_WEIGHTS"] = str(weights / f"{healthy.weights}.safetensors") if healthy.weights else ""
            path = healthy.data(Path(folder), find)
            run = train(path, output=Path(folder) / "run", settings=healthy.settings, **healthy.options)
            found = diagnose(run.path)
        _say(f"{healthy.about}: {run.evaluation.accuracy}, {len(_alarms(found))} findings")
        yield healthy, run.evaluation.accuracy, found


def planted_table(planted: Iterable[Planted]) -> Iterator[str]:
    """Lines of Markdown: each fault, the findings that came first, and how often it was right."""
    yield "| planted | first finding | right |"
    yield "| --- | --- | --- |"
    for item in planted:
        first = [findings[0].code if findings else "nothing" for findings in item.found]
        names = sorted(set(first), key=lambda code: (-first.count(code), code))
        yield f"| {item.fault} | {', '.join(f'`{name}`' for name in names)} | {item.right} of {len(item.found)} |"


def healthy_table(
    healthy: Iterable[tuple[healthy_runs.HealthyRun, Interval, list[Finding]]],
) -> Iterator[str]:
    """Lines of Markdown: each sensible run, its accuracy on test images, and what the diagnosis warned of."""
    yield "| sensible run | test accuracy | findings |"
    yield "| --- | --- | --- |"
    for run, accuracy, found in healthy:
        figure = f"{accuracy.value:.3f} [{accuracy.low:.3f}, {accuracy.high:.3f}], n = {accuracy.n:,}"
        yield f"| {run.about} | {figure} | {', '.join(f'`{item.code}`' for item in _alarms(found)) or 'none'} |"


def _alarms(found: list[Finding]) -> list[Finding]:
    return [finding for finding in found if finding.severity != "info"]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Plant every fault, and train ten sensible runs; print the tables.")
    parser.add_argument("--only", choices=("planted", "healthy"), nargs="+", default=["planted", "healthy"])
    parser.add_argument("--seeds", type=int, default=1, help="runs of each fault")
    parser.add_argument("--data", type=Path, default=BESIDE_THE_CHECKOUT / "data", help="folder of the real data sets")
    parser.add_argument("--weights", type=Path, default=BESIDE_THE_CHECKOUT / "weights", help="folder of the weights")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
