"""Searches side by side: `tintype tune`, AutoKeras and KerasTuner, each for the same minutes on the same images.

`python benchmarks/search.py --data DIR` takes a little over an hour: six contenders of ten minutes. They run one after
the other, each alone; each seed begins with the next of them. The test images are read once by each, at the end, and
counted here. The figures go to `results/search-DAY.jsonl` and, as a section of its own, to RESULTS.md.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any, Literal

import machine
from environments import environment_variables, python_of
from results import Row, read_rows, write_rows, write_section
from search_table import format_search
from workloads import WEIGHTS

HERE = Path(__file__).resolve().parent
BESIDE_THE_CHECKOUT = HERE.parents[1] / "shared"
WORKLOAD = "search"
PATIENCE = 2.0
"""A contender is killed after so many times its minutes, and ``PATIENCE_SECONDS``."""

PATIENCE_SECONDS = 900.0
COMPLAINT_LINES = 20


@dataclass(frozen=True)
class Contender:
    """A search.

    Attributes:
        key: What ``--only`` takes.
        name: As shown in the table.
        peer: Whose environment it runs in.
        pretrained: Whether it starts from pretrained weights, and so gets the folder that holds them.
        script: Path relative to this folder; None: the command line of tintype.
        arguments: Added to the others.
    """

    key: str
    name: str
    peer: Literal["tintype", "autokeras"]
    pretrained: bool = False
    script: str | None = None
    arguments: tuple[str, ...] = ()


CONTENDERS: tuple[Contender, ...] = (
    Contender("tintype", "tintype tune", "tintype", arguments=("--set", "model.weights=none")),
    Contender("autokeras", "AutoKeras, plain networks", "autokeras", script="peers/autokeras_search.py"),
    Contender(
        "autokeras-default",
        "AutoKeras, as it comes",
        "autokeras",
        script="peers/autokeras_search.py",
        arguments=("--space", "default"),
    ),
    Contender("kerastuner", "KerasTuner Hyperband", "autokeras", script="peers/kerastuner_search.py"),
    Contender("tintype-weights", "tintype tune", "tintype", pretrained=True),
    Contender(
        "kerastuner-weights",
        "KerasTuner Hyperband, heads",
        "autokeras",
        pretrained=True,
        script="peers/kerastuner_heads.py",
    ),
)


@dataclass(frozen=True)
class Wanted:
    """What one run of the benchmark is about.

    Attributes:
        data: Folder with ``train/CLASS`` and ``test/CLASS``.
        weights: Folder with MobileNetV2's weights.
        minutes: Of each search.
        output: Folder for RESULTS.md and ``results/``.
    """

    data: Path
    weights: Path
    minutes: float
    output: Path


def main() -> int:
    """Run what was asked for; gives the exit code, which is 1 where a contender failed."""
    arguments = _arguments()
    wanted = Wanted(arguments.data.resolve(), arguments.weights.resolve(), arguments.minutes, arguments.output)
    contenders = [item for item in CONTENDERS if item.key in (arguments.only or [item.key])]
    if problem := missing(wanted, contenders):
        print(problem, file=sys.stderr)
        return 2
    given = {"autokeras": arguments.autokeras_python}
    try:
        pythons = {peer: python_of(peer, given) for peer in sorted({item.peer for item in contenders})}
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    failed = False
    for seed in arguments.seeds:
        for contender in rotated(contenders, seed):
            row = turn(contender, pythons[contender.peer], wanted, seed)
            failed |= "failed" in row.details
            print(f"{contender.key}, seed {seed}: {row.measures or row.details['failed']}", file=sys.stderr, flush=True)
            section = save(wanted.output, row)
    print(section)
    return 1 if failed else 0


def missing(wanted: Wanted, contenders: Sequence[Contender]) -> str | None:
    """What is needed and is not there, in a line."""
    if not truth_of(wanted.data):
        return f"there are no images in {wanted.data / 'test'}/CLASS; give the folder that holds train/ and test/."
    if any(item.pretrained for item in contenders) and not (wanted.weights / WEIGHTS).is_file():
        return f"there is no {WEIGHTS} in {wanted.weights}; give its folder with --weights."
    return None


def rotated(contenders: Sequence[Contender], seed: int) -> list[Contender]:
    """The contenders, each seed beginning with another one, so that none always has the machine as it is at first."""
    first = seed % len(contenders)
    return [*contenders[first:], *contenders[:first]]


def turn(contender: Contender, python: str, wanted: Wanted, seed: int) -> Row:
    """Run one search as a process of its own; a failure is a row without figures that says why."""
    with (
        tempfile.TemporaryDirectory(prefix="tintype-bench-") as name,
        tempfile.TemporaryFile() as output,
        tempfile.TemporaryFile() as errors,
    ):
        scratch = Path(name)
        environment = environment_variables(scratch / "cache") | {"TINTYPE_LEDGER": str(scratch / "ledger.jsonl")}
        if contender.pretrained:
            environment["TINTYPE_WEIGHTS"] = str(wanted.weights)
        command = command_of(contender, python, wanted, seed, scratch)
        timeout = PATIENCE * 60 * wanted.minutes + PATIENCE_SECONDS
        try:
            usage = machine.run_measured(command, environment, output, errors, timeout)
        except TimeoutError as error:
            return _failed(contender, seed, wanted, str(error))
        if usage.exit_code:
            complaints = _last_lines(errors)
            print("\n".join(complaints), file=sys.stderr)
            said = complaints[-1] if complaints else "it said nothing"
            return _failed(contender, seed, wanted, f"exit code {usage.exit_code}: {said}", usage)
        try:
            found = read_tintype(scratch / "tune") if contender.script is None else read_peer(scratch / "said.json")
            right = count_right(found.pop("predictions"), truth_of(wanted.data))
        except (OSError, ValueError, KeyError) as error:
            return _failed(contender, seed, wanted, f"no usable result: {error}", usage)
    measures = {
        "accuracy": right.count("1") / len(right),
        "seconds_searched": found.pop("seconds_searched"),
        "trials": found.pop("trials"),
        "parameters": found.pop("parameters"),
    }
    return _row(contender, seed, wanted, usage, measures, found.pop("versions"), {"right": right, **found})


def command_of(contender: Contender, python: str, wanted: Wanted, seed: int, scratch: Path) -> list[str]:
    """The command line of a search, which leaves ``scratch/tune`` or ``scratch/said.json``."""
    if contender.script is None:
        command = [python, "-m", "tintype", "tune", str(wanted.data), "--budget", f"{round(60 * wanted.minutes)}s"]
        return [*command, "--seed", str(seed), "--output", str(scratch / "tune"), "--json", *contender.arguments]
    command = [python, str(HERE / contender.script), "--data", str(wanted.data), "--minutes", str(wanted.minutes)]
    command += ["--seed", str(seed), "--output", str(scratch / "said.json"), *contender.arguments]
    return [*command, "--weights", str(wanted.weights)] if contender.pretrained else command


def truth_of(data: Path) -> set[str]:
    """The test images as ``CLASS/FILE``."""
    return {f"{path.parent.name}/{path.name}" for path in (data / "test").glob("*/*")}


def count_right(predictions: Mapping[str, str], truth: set[str]) -> str:
    """A ``1`` for each image that is right and a ``0`` for each other, by the names of the images.

    Args:
        predictions: ``CLASS/FILE`` to the predicted class.
        truth: The images that there are.

    Raises:
        ValueError: The predictions are of other images.
    """
    if predictions.keys() != truth:
        raise ValueError(
            f"predictions for {len(predictions.keys() & truth):,} of the {len(truth):,} test images, "
            f"and for {len(predictions.keys() - truth):,} others"
        )
    return "".join("1" if predictions[name] == name.partition("/")[0] else "0" for name in sorted(truth))


def read_tintype(folder: Path) -> dict[str, Any]:
    """What a search of tintype left, in the words of the peers' scripts."""
    table = json.loads((folder / "tune.json").read_text(encoding="utf-8"))
    trials = [item for item in table["trials"] if item["state"] not in ("running", "waiting")]
    winner = next(item for item in table["trials"] if item["number"] == table["winner"])
    with (folder / table["result"] / "predictions.csv").open(encoding="utf-8", newline="") as file:
        tested = [row for row in csv.DictReader(file) if row["split"] == "test"]
    return {
        "predictions": {"/".join(Path(row["path"]).parts[-2:]): row["predicted"] for row in tested},
        "seconds_searched": table["seconds"],
        "trials": len(trials),
        "given_up": 0,
        "failed_trials": sum(item["state"] == "failed" for item in trials),
        "parameters": winner["parameters"],
        "validation_accuracy": winner["accuracy"]["value"],
        "winner": winner["settings"],
        "space": table["space"],
        "tried": table["trials"],
        "notes": table["notes"],
        "versions": {name: version(name) for name in ("tintype", "torch", "optuna")},
    }


def read_peer(path: Path) -> dict[str, Any]:
    """What a peer's script wrote."""
    said: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return said


def save(folder: Path, row: Row) -> str:
    """Add a row to the day's, in place of the same search's earlier one, and write the section; gives the section."""
    today = datetime.date.today().isoformat()
    path = folder / "results" / f"search-{today}.jsonl"
    kept = [item for item in read_rows(path) if _which(item) != _which(row)]
    rows = [*kept, row]
    write_rows(path, rows)
    heading = f"{today}, search, {machine.processor()}"
    names = {item.key: (item.name, item.pretrained) for item in CONTENDERS}
    section = format_search(heading, rows, names, machine.describe())
    write_section(folder, heading, section)
    return section


def _which(row: Row) -> tuple[str, int, str, float]:
    return row.contender, row.repeat, row.details["data"], row.details["minutes"]


def _failed(contender: Contender, seed: int, wanted: Wanted, why: str, usage: machine.Usage | None = None) -> Row:
    usage = usage or machine.Usage(-9, 0.0, 0.0, None)
    return _row(contender, seed, wanted, usage, {}, {}, {"failed": why})


def _row(
    contender: Contender,
    seed: int,
    wanted: Wanted,
    usage: machine.Usage,
    measures: dict[str, float | None],
    versions: dict[str, str],
    details: dict[str, Any],
) -> Row:
    return Row(
        workload=WORKLOAD,
        contender=contender.key,
        repeat=seed,
        measures=measures,
        peak_rss_mib=round(usage.peak_rss_mib, 1),
        wall_seconds=round(usage.wall_seconds, 3),
        other_cores=None if usage.other_cores is None else round(usage.other_cores, 3),
        versions=versions,
        details={"data": wanted.data.name, "minutes": wanted.minutes, **details},
    )


def _last_lines(file: IO[bytes]) -> list[str]:
    file.seek(0)
    lines = file.read().decode(errors="replace").splitlines()
    return [line for line in lines if line.strip()][-COMPLAINT_LINES:]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=BESIDE_THE_CHECKOUT / "data" / "tiny_imagenet_20")
    parser.add_argument("--weights", type=Path, default=BESIDE_THE_CHECKOUT / "weights", help=f"folder with {WEIGHTS}")
    parser.add_argument("--only", nargs="+", choices=[item.key for item in CONTENDERS], help="by default all of them")
    parser.add_argument("--minutes", type=float, default=10.0, help="of each search")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--output", type=Path, default=HERE, help="folder for RESULTS.md and results/")
    parser.add_argument("--autokeras-python", help="a Python with AutoKeras, instead of making an environment")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
