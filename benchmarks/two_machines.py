"""Training on two machines against one: images a second over a shaped link, and the accuracy reached.

`python benchmarks/two_machines.py --work a2` makes two network namespaces with a link between them (this needs root and
iproute2), pins one core for each, and trains as a user would, with torchrun over the link and alone on one core.
Baseline and methods take turns. `--accuracy SEED ...` trains to the end as well, and compares test accuracies. Figures
go to `results/two-machines-DAY.jsonl` and, as a section of its own, to RESULTS.md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import machine
import torch

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "tests"))  # the hosts belong to the tests

from multihost.hosts import Host, two_hosts, why_no_hosts  # noqa: E402
from results import write_section  # noqa: E402

from tintype import __version__  # noqa: E402
from tintype.evaluation.stats import wilson  # noqa: E402

DATA = HERE.parents[1] / "shared" / "data"
PORT = 29_555
ALONE = "one core"

QUIET = """
[evidence]
baselines = false
attention = false
"""

A2 = (
    """
[data]
image_size = 180
color = "rgb"
resize = "stretch"
[augment]
policy = "none"
rotation = 15.0
shear = 0.1
zoom = 0.2
shift = 0.1
flip_horizontal = true
fill = "nearest"
[model]
name = "cats_dogs"
standardize = "none"
flip_average = false
[fit]
optimizer = "rmsprop"
learning_rate = 1e-3
rho = 0.95
weight_decay = 0.0
label_smoothing = 0.0
schedule = "reduce_on_plateau"
checkpoint_seconds = 600.0
"""
    + QUIET
)

RESNET = (
    """
[data]
image_size = 64
[augment]
policy = "light"
[model]
backbone = "resnet18"
weights = "none"
freeze = "none"
flip_average = false
[fit]
head_epochs = 0
optimizer = "sgd"
learning_rate = 0.05
weight_decay = 5e-4
label_smoothing = 0.0
checkpoint_seconds = 600.0
"""
    + QUIET
)


@dataclass(frozen=True)
class Work:
    """What is trained.

    Attributes:
        title: For the table.
        data: Folder of the images.
        settings: TOML of the run.
        images: A rank's share of a step, and the batch of one core.
        steps: In an epoch that is timed.
    """

    title: str
    data: str
    settings: str
    images: int
    steps: int


WORKS = {
    "a2": Work("A2 on cats_dogs, 180 px, 64 images a rank, RMSprop", "cats_dogs", A2, 64, 16),
    "resnet18": Work("ResNet-18 on tiny_imagenet_20, 64 px, 32 images a rank, SGD", "tiny_imagenet_20", RESNET, 32, 48),
}


@dataclass(frozen=True)
class Turn:
    """One training.

    Attributes:
        work: Key of :data:`WORKS`.
        rate: Of the link.
        method: Of the gradients; :data:`ALONE` for one core.
        number: Of the round, or the seed.
        images_per_second: Of the last epoch; None where the machine did something else besides.
        right: Test images that were classified right; None where only time was measured.
        tested: How many there were.
        training: What was trained to the end, in words.
    """

    work: str
    rate: str
    method: str
    number: int
    images_per_second: float | None
    right: int | None = None
    tested: int | None = None
    training: str = ""


def main() -> int:
    """Measure what was asked for and write it down."""
    arguments = _arguments()
    reason = why_no_hosts()
    if reason is not None:
        sys.exit(f"two machines cannot be made here: {reason}")
    turns: list[Turn] = []
    for rate in arguments.rate:
        with two_hosts(rate=rate) as hosts:
            for number in range(arguments.rounds):
                for method in (ALONE, *arguments.methods):
                    turns.append(_timed(arguments, hosts, rate, method, number))
            for seed in arguments.accuracy:
                for method in (ALONE, *arguments.methods):
                    turns.append(_trained(arguments, hosts, rate, method, seed))
    _write(arguments, turns)
    return 0


def _timed(arguments: argparse.Namespace, hosts: Sequence[Host], rate: str, method: str, number: int) -> Turn:
    steps = str(WORKS[arguments.work].steps)
    # The first epoch warms up, and holds the steps before a method begins that changes the result.
    settings = ["fit.epochs=2", f"fit.steps_per_epoch={steps}", *arguments.set]
    # Which core a single rank has takes turns as well: the two of a machine need not be equally fast.
    speed, _ = _train(arguments, hosts, method, settings, seed=0, core=number % 2)
    _say(f"{rate}, {method}, round {number}: {speed:.1f} images/s")
    return Turn(arguments.work, rate, method, number, speed)


def _trained(arguments: argparse.Namespace, hosts: Sequence[Host], rate: str, method: str, seed: int) -> Turn:
    """Train with the same batch on one core and on two, so that only the way of the gradients differs."""
    batch = 2 * WORKS[arguments.work].images
    settings = [f"fit.epochs={arguments.epochs}", f"fit.batch_size={batch}", *arguments.set]
    speed, run = _train(arguments, hosts, method, settings, seed, core=seed % 2)
    accuracy = run["test"]["accuracy"]
    right = round(accuracy["value"] * accuracy["n"])
    _say(f"{rate}, {method}, seed {seed}: {right} of {accuracy['n']} right")
    training = ", ".join([f"{arguments.epochs} epochs", f"batch {batch}", *arguments.set])
    return Turn(arguments.work, rate, method, seed, speed, right, accuracy["n"], training)


def _train(
    arguments: argparse.Namespace, hosts: Sequence[Host], method: str, settings: Sequence[str], seed: int, core: int
) -> tuple[float, dict[str, Any]]:
    """Train once; images a second of the last epoch, and ``evaluation.json``."""
    work = WORKS[arguments.work]
    with tempfile.TemporaryDirectory() as folder:
        config, run = Path(folder) / "config.toml", Path(folder) / "run"
        config.write_text(work.settings, encoding="utf-8")
        batch = work.images if method == ALONE else 2 * work.images
        train = ["-m", "tintype", "train", str(arguments.data / work.data), "--config", str(config), "-o", str(run)]
        train += ["--batch-size", str(batch), "--seed", str(seed)]
        train += [part for setting in settings for part in ("--set", setting)]
        if method == ALONE:
            processes = [_start(hosts[0], train, core)]
        else:
            launch = [
                "-m",
                "torch.distributed.run",
                "--nnodes",
                "2",
                "--nproc-per-node",
                "1",
                "--master-port",
                str(PORT),
            ]
            launch += ["--master-addr", hosts[0].address]
            processes = [
                _start(host, [*launch, "--node-rank", str(rank), *train, "--comm", method], rank)
                for rank, host in enumerate(hosts)
            ]
        said = [process.communicate()[0] for process in processes]
        if any(process.returncode for process in processes):
            sys.exit(f"{method} failed:\n" + "\n".join(text[-2000:] for text in said))
        last = (run / "history.jsonl").read_text(encoding="utf-8").splitlines()[-1]
        evaluation: dict[str, Any] = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
        return float(json.loads(last)["images_per_second"]), evaluation


def _start(host: Host, arguments: Sequence[str], core: int) -> subprocess.Popen[str]:
    cache = Path(os.environ.get("TINTYPE_BENCH_CACHE", tempfile.gettempdir())) / "two-machines"
    environment = {"TINTYPE_CACHE": str(cache), "TINTYPE_LEDGER": str(cache / "ledger.jsonl")}
    return host.run(
        [sys.executable, *arguments], core=core, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def _write(arguments: argparse.Namespace, turns: Sequence[Turn]) -> None:
    day = datetime.datetime.now(datetime.UTC).date().isoformat()
    rows = arguments.output / "results" / f"two-machines-{day}.jsonl"
    rows.parent.mkdir(parents=True, exist_ok=True)
    with rows.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(turn)) + "\n" for turn in turns)
    everything = [Turn(**json.loads(line)) for line in rows.read_text(encoding="utf-8").splitlines()]
    heading = f"{day}, two machines, {machine.processor()}"
    write_section(arguments.output, heading, "\n".join(_section(heading, everything)))
    print("\n".join(_section(heading, everything)))


def _section(heading: str, turns: Sequence[Turn]) -> list[str]:
    lines = [
        f"## {heading}",
        "",
        f"`benchmarks/two_machines.py`, tintype {__version__}, torch {torch.__version__}. Two network namespaces on "
        "one machine, one pinned core each, joined by a link shaped with `tc tbf`; one core alone takes turns with "
        "them, and is now the one and now the other. Images a second of the second epoch, median (lowest to highest); "
        "the ratio is the median of the rounds' ratios.",
    ]
    timed = [turn for turn in turns if turn.right is None]
    if timed:
        lines += [
            "",
            "| work | link | gradients | images/s | times one core | n |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
    for (work, rate, method), found in _grouped(timed).items():
        alone = _grouped(timed)[work, rate, ALONE]
        base = {turn.number: turn.images_per_second or 0.0 for turn in alone}
        speeds = [turn.images_per_second or 0.0 for turn in found]
        ratios = [speed / base[turn.number] for speed, turn in zip(speeds, found, strict=True)]
        speeds.sort()
        lines.append(
            f"| {WORKS[work].title} | {rate} | {method} "
            f"| {statistics.median(speeds):.1f} ({speeds[0]:.1f} to {speeds[-1]:.1f}) "
            f"| {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) | {len(found)} |"
        )
    trained = [turn for turn in turns if turn.right is not None]
    if trained:
        lines += [
            "",
            "Trained to the end, the same batch on one core and on two; the interval is that of the test images:",
            "",
        ]
        lines += [
            "| work | trained | link | gradients | accuracy, mean of seeds | each seed |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
    for (work, rate, method), found in _grouped(trained).items():
        tested = found[0].tested or 1
        interval = wilson(round(statistics.mean(turn.right or 0 for turn in found)), tested)  # seeds are no new images
        each = ", ".join(f"{100 * (turn.right or 0) / tested:.1f} %" for turn in found)
        lines.append(
            f"| {WORKS[work].title} | {found[0].training} | {rate} | {method} "
            f"| {100 * interval.value:.1f} % ({100 * interval.low:.1f} to "
            f"{100 * interval.high:.1f}, n = {tested}) | {each} |"
        )
    return [*lines, ""]


def _grouped(turns: Sequence[Turn]) -> dict[tuple[str, str, str], list[Turn]]:
    groups: dict[tuple[str, str, str], list[Turn]] = {}
    for turn in turns:
        groups.setdefault((turn.work, turn.rate, turn.method), []).append(turn)
    return groups


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--work", choices=WORKS, required=True)
    parser.add_argument("--rate", nargs="+", default=["1gbit"])
    parser.add_argument("--methods", nargs="+", default=["fp32", "bf16", "local_sgd"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--accuracy", type=int, nargs="*", default=[], metavar="SEED", help="train to the end with these"
    )
    parser.add_argument("--epochs", type=int, default=10, help="of the trainings for accuracy")
    parser.add_argument("--set", action="append", default=[], help="a setting of all runs")
    parser.add_argument("--output", type=Path, default=HERE)
    return parser.parse_args()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
