"""An exported model against the same network in eager torch: time for one image, and images a second in batches.

`python benchmarks/serving_models.py RUN` exports the run with int8 into a scratch folder and times, turn about, in one
process: eager torch as its users write it (fp32, `inference_mode`), the run's own predictor (channels last),
`model.onnx`, and `model-int8.onnx`, each on the cores that the process may use. Images are random and of the model's
own size; a last column gives the time of an image of 640 x 480 with the resize in the graph. Rounds are interleaved;
the table gives medians over rounds and their range.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import machine
import numpy as np
import torch
from numpy.typing import NDArray

from tintype.ranks.torchrun import usable_cores
from tintype.rundir import RunDir
from tintype.serving.export import export_run
from tintype.serving.exported import Exported
from tintype.serving.graph import plain_layout
from tintype.serving.model import load_model
from tintype.serving.run_classifier import RunClassifier

Answer = Callable[[NDArray[np.uint8]], NDArray[np.float32]]

BATCH = 16
WARM_SECONDS, TIMED_SECONDS = 0.5, 1.5
CAMERA = (480, 640)


def eager(run: Path) -> Answer:
    """The network as people run it: a batch in, softmax out, weights as they were loaded."""
    network = plain_layout(load_model(RunDir(run)).network)

    def answer(images_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            images = torch.from_numpy(images_NHWC).permute(0, 3, 1, 2)
            return np.asarray(network.probabilities(network(images)).numpy(), np.float32)

    return answer


def timed(answer: Answer, images_NHWC: NDArray[np.uint8]) -> list[float]:
    """Seconds of each call over a second and a half, after a warm-up."""
    end = time.perf_counter() + WARM_SECONDS
    while time.perf_counter() < end:
        answer(images_NHWC)
    seconds: list[float] = []
    end = time.perf_counter() + TIMED_SECONDS
    while time.perf_counter() < end or len(seconds) < 3:
        begin = time.perf_counter()
        answer(images_NHWC)
        seconds.append(time.perf_counter() - begin)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(usable_cores())
    with tempfile.TemporaryDirectory() as scratch:
        report = export_run(RunDir(given.run), Path(scratch) / "export", int8=True)
        full, small = Exported(report.path), Exported(report.path, int8=True)
        contenders: dict[str, Answer] = {
            "eager torch": eager(given.run),
            "tintype, torch": RunClassifier(given.run, "cpu").probabilities,
            "model.onnx": full.probabilities,
            "model-int8.onnx": small.probabilities,
        }
        rows = measure(contenders, full.geometry.size, given.rounds)
    for name, text in machine.describe().items():
        print(f"{name}: {text}")
    print(
        f"{usable_cores()} cores used, {given.rounds} rounds of {TIMED_SECONDS} s each; median and range of the rounds"
    )
    print(table(rows))
    cost = report.int8
    assert cost is not None
    print(
        f"int8 beside fp32 on {report.images}: accuracy {cost.accuracy}, fp32 {cost.full_accuracy}, {cost.difference}"
    )
    sys.stdout.write(json.dumps({"rows": rows, "export": report.to_plain()}) + "\n")


def measure(contenders: dict[str, Answer], size: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Figures of each contender, one a round: milliseconds for one image (median, 99th of 100), images a second."""
    random = np.random.default_rng(0)
    one, many, camera = (
        random.integers(0, 256, (count, height, width, 3), dtype=np.uint8)
        for count, height, width in ((1, size, size), (BATCH, size, size), (1, *CAMERA))
    )
    rows: dict[str, dict[str, list[float]]] = {name: {} for name in contenders}
    for _ in range(rounds):
        for name, answer in contenders.items():
            single = timed(answer, one)
            figures = {
                "ms": 1e3 * statistics.median(single),
                "p99 ms": 1e3 * float(np.quantile(single, 0.99)),
                "images/s": BATCH / statistics.median(timed(answer, many)),
            }
            if name.endswith(".onnx"):
                figures["camera ms"] = 1e3 * statistics.median(timed(answer, camera))
            for figure, value in figures.items():
                rows[name].setdefault(figure, []).append(value)
    return rows


def table(rows: dict[str, dict[str, list[float]]]) -> str:
    """Markdown."""
    columns = ("ms", "p99 ms", "images/s", "camera ms")
    lines = [f"| | {' | '.join(columns)} |", f"| --- |{' ---: |' * len(columns)}"]
    for name, figures in rows.items():
        cells = [
            f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})" if values else "–"
            for values in (figures.get(column, []) for column in columns)
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
