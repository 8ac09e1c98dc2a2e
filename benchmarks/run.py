"""Measure tintype side by side with Keras and torchvision: `python benchmarks/run.py --help`."""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import machine
from environments import environment_variables, python_of
from results import Row, format_section, read_rows, write_rows, write_section
from workloads import WEIGHTS, WORKLOADS, Contender, Workload

HERE = Path(__file__).resolve().parent
BESIDE_THE_CHECKOUT = HERE.parents[1] / "shared"
LETTERS = ",".join(sorted({measure.letter for workload in WORKLOADS for measure in workload.measures}))


@dataclass(frozen=True)
class Folders:
    """What the contenders read.

    Attributes:
        data: With ``cats_dogs/``, ``mnist/`` and ``chest_xray/``.
        weights: With ``mobilenetv2_100_imagenet.safetensors``.
    """

    data: Path
    weights: Path


def main() -> int:
    """Run what was asked for, write rows and tables; gives the exit code."""
    arguments = _arguments()
    wanted = set(arguments.only.split(","))
    workloads = [item for item in WORKLOADS if wanted & {item.name, *(measure.letter for measure in item.measures)}]
    if not workloads:
        names = ", ".join(item.name for item in WORKLOADS)
        print(f"--only takes some of {LETTERS}, or of {names}. Got {arguments.only!r}.", file=sys.stderr)
        return 2
    folders = Folders(arguments.data.resolve(), arguments.weights.resolve())
    if problem := missing(folders, workloads):
        print(problem, file=sys.stderr)
        return 2
    given = {"keras": arguments.keras_python, "torchvision": arguments.torchvision_python}
    peers: set[str] = {contender.peer for item in workloads for contender in item.contenders}
    try:
        pythons = {peer: python_of(peer, given) for peer in sorted(peers)}
        for workload in workloads:
            rows = measure(workload, pythons, folders, arguments.repeats or workload.rounds, arguments.timeout)
            print(save(arguments.output, workload, rows))
    except (RuntimeError, TimeoutError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def missing(folders: Folders, workloads: list[Workload]) -> str | None:
    """What the workloads need and is not there, in a line."""
    if not folders.data.is_dir():
        return f"there is no data folder {folders.data}; give the one that holds cats_dogs/ and mnist/."
    needs_weights = any(contender.needs_weights for workload in workloads for contender in workload.contenders)
    if needs_weights and not (folders.weights / WEIGHTS).is_file():
        return f"there is no {WEIGHTS} in {folders.weights}; give its folder with --weights."
    return None


def measure(workload: Workload, pythons: dict[str, str], folders: Folders, repeats: int, timeout: float) -> list[Row]:
    """Let the contenders take turns: all of them once, then all of them again.

    Raises:
        RuntimeError: A contender failed.
        TimeoutError: A contender took longer than ``timeout`` seconds.
    """
    rows = []
    for repeat in range(repeats):
        for contender in workload.contenders:
            row = turn(workload, contender, pythons[contender.peer], folders, repeat, timeout)
            rows.append(row)
            said = ", ".join(f"{key} {value}" for key, value in row.measures.items())
            print(f"{workload.name} {repeat + 1}/{repeats} {contender.name}: {said}", file=sys.stderr)
    return rows


def turn(workload: Workload, contender: Contender, python: str, folders: Folders, repeat: int, timeout: float) -> Row:
    """Run one contender once, as a process of its own with an empty cache folder."""
    with (
        tempfile.TemporaryDirectory(prefix="tintype-bench-") as scratch,
        tempfile.TemporaryFile() as output,
        tempfile.TemporaryFile() as errors,
    ):
        data = folders.data
        if workload.layout is not None:
            data = Path(scratch) / "data"
            workload.layout(folders.data, data)
        if workload.files:
            machine.drop_from_memory(data / workload.files)
        command = [python, str(HERE / contender.script), "--data", str(data), "--seed", str(repeat)]
        if contender.needs_weights:
            command += ["--weights", str(folders.weights)]
        command += contender.arguments
        environment = environment_variables(Path(scratch) / "cache")
        usage = machine.run_measured(command, environment, output, errors, timeout)
        lines, complaints = _text_of(output), _text_of(errors)
    if usage.exit_code:
        print("\n".join(complaints[-20:]), file=sys.stderr)
        raise RuntimeError(f"{contender.name} failed at {workload.name} with exit code {usage.exit_code}.")
    said = _last_object(lines, contender)
    return Row(
        workload=workload.name,
        contender=contender.name,
        repeat=repeat,
        measures=said.pop("measures"),
        peak_rss_mib=round(usage.peak_rss_mib, 1),
        wall_seconds=round(usage.wall_seconds, 3),
        other_cores=None if usage.other_cores is None else round(usage.other_cores, 3),
        versions=said.pop("versions"),
        details=said,
    )


def _text_of(file: IO[bytes]) -> list[str]:
    file.seek(0)
    return file.read().decode(errors="replace").splitlines()


def _last_object(lines: list[str], contender: Contender) -> dict[str, Any]:
    """Libraries print on standard output as well, so the contender's own line is the last one that is an object."""
    for line in reversed(lines):
        if line.startswith("{"):
            said: dict[str, Any] = json.loads(line)
            return said
    raise RuntimeError(f"{contender.script} printed no line of JSON.")


def save(folder: Path, workload: Workload, rows: list[Row]) -> str:
    """Put the rows in place of the same day's earlier ones and write the day's tables anew; gives the tables."""
    today = datetime.date.today().isoformat()
    path = folder / "results" / f"{today}.jsonl"
    kept = [row for row in read_rows(path) if row.workload != workload.name]
    write_rows(path, kept + rows)
    heading = f"{today}, {machine.processor()}"
    section = format_section(heading, kept + rows, WORKLOADS, machine.describe())
    write_section(folder, heading, section)
    return format_section(heading, rows, [workload], machine.describe())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only", default=LETTERS, help=f"some of {LETTERS} (a and b are measured together), or names of workloads"
    )
    parser.add_argument("--repeats", type=int, help="rounds, also seeds; by default each workload's own number")
    parser.add_argument(
        "--data", type=Path, default=BESIDE_THE_CHECKOUT / "data", help="folder with cats_dogs/, mnist/, chest_xray/"
    )
    parser.add_argument("--weights", type=Path, default=BESIDE_THE_CHECKOUT / "weights", help=f"folder with {WEIGHTS}")
    parser.add_argument("--output", type=Path, default=HERE, help="folder for RESULTS.md and results/")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds that one turn may take")
    parser.add_argument("--keras-python", help="a Python with Keras, instead of making an environment")
    parser.add_argument("--torchvision-python", help="a Python with torchvision, instead of making an environment")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
