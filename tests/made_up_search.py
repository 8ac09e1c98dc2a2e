"""A search's directory with made-up figures, as `tintype tune` leaves it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tintype.evaluation.selection import Selection
from tintype.evaluation.stats import wilson
from tintype.records import Interval, LayerRow, ModelSummary
from tintype.report.tunefile import (
    TUNE_FORMAT,
    WINNER_FILE,
    StageRow,
    TrialRole,
    TrialRow,
    TrialState,
    TuneState,
    TuneTable,
    write_tune_table,
)
from tintype.rundir import write_text

IMAGES = 6000
OUT_OF_MEMORY = "out of memory: a batch of 512 needs 3.1 GB, and 2.0 GB are free"
NOT_FINITE = "the loss is not finite after step 112"
LAYERS = "conv {0} 3 relu; bn; conv {0} 3 relu; bn; pool 2; residual {1} stride=2 repeat={2}; dropout 0.3; gap"
TOML = '[model]\nlayers = """\nconv 48 3 relu\nbn\n"""\n\n[fit]\nlearning_rate = 0.0041\nepochs = 14\n'


def trial_row(
    number: int,
    accuracy: float | None = None,
    role: TrialRole = "search",
    state: TrialState = "complete",
    n: int = IMAGES,
    **others: object,
) -> TrialRow:
    """A trial with an accuracy of ``n`` images; without one it failed unless it says otherwise."""
    interval: Interval | None = wilson(round(accuracy * n), n) if accuracy is not None else None
    return TrialRow(number, role, state, accuracy=interval, **others)  # type: ignore[arg-type]


def searched(count: int, seed: int = 0) -> list[TrialRow]:
    """Trials of a search from scratch: some complete, some stopped, some failed."""
    random = np.random.default_rng(seed)
    rows = []
    for number in range(2, count + 2):
        stage = int(random.choice([1, 1, 2, 3, 3]))
        truth = 0.94 + 0.016 * stage + 0.004 * random.standard_normal()
        state: TrialState = "complete" if stage == 3 else "pruned"
        cause = {7: OUT_OF_MEMORY, 19: NOT_FINITE, 31: OUT_OF_MEMORY}.get(number, "")
        rows.append(
            trial_row(
                number,
                None if cause else 0.12 if number == 11 else truth,
                state="failed" if cause else state,
                stage=stage,
                loss=0.05,
                seconds=4.0 * (1, 4, 13)[stage - 1],
                ended=12.0 + number * 6.1,
                settings={
                    "model.layers": LAYERS.format(int(random.choice([32, 48, 64])), 128, int(random.choice([1, 2]))),
                    "fit.optimizer": str(random.choice(["adamw", "sgd"])),
                    "fit.learning_rate": float(10 ** random.uniform(-3.5, -1.5)),
                    "fit.weight_decay": float(10 ** random.uniform(-5, -2)),
                    "augment.policy": str(random.choice(["none", "digits"])),
                    "fit.batch_size": int(random.choice([64, 128, 256])),
                },
                parameters=int(random.integers(80_000, 900_000)),
                epochs=float((1.2, 3.9, 11.4)[stage - 1]),
                image_size=20 if stage == 1 else 28,
                cause=cause,
            )
        )
    return rows


def search_table(count: int = 40, *, state: TuneState = "finished", result: str | None = "best") -> TuneTable:
    """The table of a search of ``count`` trials beside the default and the logistic head."""
    rows = [
        trial_row(
            0, 0.9871, "default", stage=1, seconds=38.0, ended=38.0, parameters=421_642, epochs=6.0, image_size=28
        ),
        trial_row(1, 0.9240, "logistic", stage=1, seconds=3.1, ended=41.1, parameters=7_850, epochs=1.0, image_size=28),
        *searched(count),
    ]
    complete = [row for row in rows if row.state == "complete" and row.accuracy]
    winner = max(complete, key=lambda row: row.accuracy.value if row.accuracy else 0.0)
    observed = winner.accuracy.value if winner.accuracy else 0.0
    last = len(rows)
    for i in (1, 2):
        again = {"stage": 3, "seconds": 52.0, "seed": i, "repeat_of": winner.number}
        rows.append(trial_row(last + i - 1, observed - 0.0006 * i, "repeat", **again))  # type: ignore[arg-type]
    if result:
        rows.append(trial_row(last + 2, 0.9958, "final", seconds=71.0, ended=300.0, repeat_of=winner.number))
    return TuneTable(
        TUNE_FORMAT, "digits", "../shared/data/mnist", "scratch",
        "grey images of 28 × 28 pixels are far from photographs, and there are 54,000 to train on",
        IMAGES, 0, 300.0, None, 288.0, state, tuple(rows),
        stages=(StageRow(4.0, 20, 39), StageRow(12.0, 28, 24), StageRow(36.0, 28, 14)),
        importance={
            "fit.learning_rate": 0.44, "model.layers": 0.31, "augment.policy": 0.17, "fit.optimizer": 0.06,
            "fit.batch_size": 0.02,
        },
        selection=Selection(IMAGES, 36, observed - 0.0006, 0.0008, observed - 0.0033, observed - 0.0001),
        winner=winner.number, result=result, version="0.1.0",
        notes=("The last trial would not have ended in time, so the search ended 12 s before its budget.",),
    )  # fmt: skip


def residual_layers() -> ModelSummary:
    """A layer table of a residual network for 28 x 28 pixels, shortcuts beside the others."""
    shapes: list[tuple[str, str, tuple[int, ...], int]]
    shapes = [("conv1", "conv 3x3", (48, 28, 28), 480), ("bn1", "batch norm", (48, 28, 28), 192)]
    shapes += [("conv2", "conv 3x3", (48, 28, 28), 20784), ("bn2", "batch norm", (48, 28, 28), 192)]
    shapes += [("pool", "max pool 2x2", (48, 14, 14), 0)]
    for number, step in enumerate((" stride 2", "")):
        name = f"residual1.{number}"
        shapes += [(f"{name}.conv1", f"conv 3x3{step}", (128, 7, 7), 55296 if number == 0 else 147456)]
        shapes += [(f"{name}.bn1", "batch norm", (128, 7, 7), 512), (f"{name}.relu1", "relu", (128, 7, 7), 0)]
        shapes += [(f"{name}.conv2", "conv 3x3", (128, 7, 7), 147456), (f"{name}.bn2", "batch norm", (128, 7, 7), 512)]
        if number == 0:
            shapes += [(f"{name}.shortcut.conv", "conv 1x1 stride 2", (128, 7, 7), 6144)]
            shapes += [(f"{name}.shortcut.bn", "batch norm", (128, 7, 7), 512)]
        shapes += [(f"{name}.relu2", "relu", (128, 7, 7), 0)]
    shapes += [("gap", "global average pool", (128,), 0), ("output", "dense", (10,), 1290)]
    rows = tuple(LayerRow(name, kind, shape, count, count) for name, kind, shape, count in shapes)
    total = sum(row.parameters for row in rows)
    return ModelSummary(rows, total, total, 0)


def backbone_layers() -> ModelSummary:
    """A layer table of a frozen backbone of 53 convolutions with a head that trains."""
    rows = [LayerRow("backbone.stem", "conv 3x3 stride 2", (32, 112, 112), 864, 0)]
    channels = 16
    for block in range(17):
        side = (112, 56, 28, 14, 14, 7)[min(block // 3, 5)]
        channels = (16, 24, 32, 64, 96, 160)[min(block // 3, 5)]
        for part, kind in enumerate(("conv 1x1", "conv 3x3 in 96 groups", "conv 1x1")):
            shape = (channels * (1 if part == 2 else 6), side, side)
            rows.append(LayerRow(f"backbone.blocks.{block}.{part}", kind, shape, 1000 * channels, 0))
            rows.append(LayerRow(f"backbone.blocks.{block}.bn{part}", "BatchNormAct2d", shape, 4 * channels, 0))
    rows += [
        LayerRow("backbone.conv_head", "conv 1x1", (1280, 7, 7), 204800, 0),
        LayerRow("backbone.pool", "global average pool", (1280,), 0, 0),
        LayerRow("hidden", "dense", (256,), 327936, 327936),
        LayerRow("hidden.relu", "relu", (256,), 0, 0),
        LayerRow("output", "dense", (2,), 514, 514),
    ]
    total = sum(row.parameters for row in rows)
    trainable = sum(row.trainable_parameters for row in rows)
    return ModelSummary(tuple(rows), total, trainable, total - trainable)


def write_search(folder: Path, table: TuneTable) -> Path:
    """Write a search's directory without the winner's run."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tune_table(folder, table)
    if table.winner is not None:
        write_text(folder / WINNER_FILE, TOML)
    return folder
