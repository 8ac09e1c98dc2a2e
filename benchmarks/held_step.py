"""A training step of networks whose BatchNorms keep their statistics: as PyTorch runs it, and as tintype does.

`python benchmarks/held_step.py` times steps of several networks of timm (random weights, random images; all layers
train) in fp32 and in bf16, each with eager PyTorch in channels-last and with `QuickTraining`, in turn, in one process.
The figures go to a section of RESULTS.md. It takes two minutes.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import machine
import torch
from results import write_section
from torch import Tensor, nn

from tintype import __version__
from tintype.config import ModelConfig
from tintype.models.build import build_network
from tintype.models.network import Network
from tintype.models.quick import QuickTraining
from tintype.ranks.torchrun import usable_cores

HERE = Path(__file__).resolve().parent
CPU = torch.device("cpu")
NETWORKS: tuple[tuple[str, dict[str, str], int], ...] = (
    ("mobilenetv2_100", {"pad_type": "same"}, 128),
    ("mobilenetv2_100", {"pad_type": "same"}, 224),
    ("mobilenetv2_100", {}, 224),
    ("efficientnet_b0", {}, 128),
    ("resnet18", {}, 128),
)
IMAGES, CLASSES = 32, 20
CONTENDERS = ("eager fp32", "eager bf16", "tintype fp32", "tintype bf16")


def network_of(name: str, arguments: dict[str, str], side: int) -> Network:
    """A network in channels-last whose normalisations are held."""
    torch.manual_seed(0)
    config = ModelConfig(backbone=name, backbone_arguments=dict(arguments))
    network = build_network(config, (3, side, side), CLASSES, [0.5] * 3, [0.5] * 3)
    network.held = tuple(name for name, part in network.named_modules() if isinstance(part, nn.BatchNorm2d))
    return network.place(CPU).train()


def step_of(network: Network, images: Tensor, labels: Tensor, *, bf16: bool) -> Callable[[], None]:
    """A forward and a backward pass."""

    def step() -> None:
        network.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = network(images)
        nn.functional.cross_entropy(logits.float(), labels).backward()  # type: ignore[no-untyped-call]

    return step


def milliseconds(name: str, arguments: dict[str, str], side: int, rounds: int) -> dict[str, list[float]]:
    """Of each contender for an image, one figure a round; a round before them builds kernels."""
    eager = network_of(name, arguments, side)
    quick = copy.deepcopy(eager)
    images = torch.randint(0, 256, (IMAGES, 3, side, side), dtype=torch.uint8).to(memory_format=torch.channels_last)
    labels = torch.randint(0, CLASSES, (IMAGES,))
    with QuickTraining(quick, CPU):
        steps = {
            f"{kind} {precision}": step_of(network, images, labels, bf16=precision == "bf16")
            for kind, network in (("eager", eager), ("tintype", quick))
            for precision in ("fp32", "bf16")
        }
        found: dict[str, list[float]] = {contender: [] for contender in CONTENDERS}
        for number in range(rounds + 1):
            for contender in CONTENDERS:
                began = time.perf_counter()
                steps[contender]()
                if number:
                    found[contender].append(1e3 * (time.perf_counter() - began) / IMAGES)
    return found


def section(heading: str, rows: dict[str, dict[str, list[float]]], rounds: int) -> str:
    """Markdown for RESULTS.md."""
    lines = [
        f"## {heading}", "",
        f"`benchmarks/held_step.py`, tintype {__version__}, torch {torch.__version__}, {usable_cores()} cores, steps "
        f"of {IMAGES} images, all layers train, BatchNorm keeps its statistics. Milliseconds an image: median of "
        f"{rounds} rounds in turn (lowest to highest). The ratio is of the better precision of each.", "",
        f"| network | {' | '.join(CONTENDERS)} | tintype is faster by |", f"| --- |{' ---: |' * (len(CONTENDERS) + 1)}",
    ]  # fmt: skip
    for name, found in rows.items():
        medians = {contender: statistics.median(values) for contender, values in found.items()}
        cells = [
            f"{medians[contender]:.1f} ({min(values):.1f} to {max(values):.1f})" for contender, values in found.items()
        ]
        best = [min(medians[f"{kind} {precision}"] for precision in ("fp32", "bf16")) for kind in ("eager", "tintype")]
        lines.append(f"| {name} | {' | '.join(cells)} | {best[0] / best[1]:.2f} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure and write it down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, default=HERE, help="folder for RESULTS.md")
    given = parser.parse_args()
    torch.set_num_threads(usable_cores())
    rows = {}
    for name, arguments, side in NETWORKS:
        title = f"{name}, {side} px" + (", padded as TensorFlow does" if arguments else "")
        rows[title] = milliseconds(name, arguments, side, given.rounds)
        print(title, {contender: round(statistics.median(values), 1) for contender, values in rows[title].items()})
    heading = f"{datetime.datetime.now(datetime.UTC).date()}, steps with held statistics, {machine.processor()}"
    write_section(given.output, heading, section(heading, rows, given.rounds))


if __name__ == "__main__":
    main()
