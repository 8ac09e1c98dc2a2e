"""Measuring training steps of some ranks, or of each rank by itself, in blocks that take turns.

The steps are those of :class:`tintype.training.fit.TrainingLoop` on the real images, and its clock is on. Turns spread
what the machine does besides over everything that is measured.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tintype.config import AugmentConfig, FitConfig, ParallelConfig
from tintype.data.cache import ImageCache
from tintype.data.split import Split
from tintype.errors import RunInterrupted
from tintype.evaluation.scaling import Block, Measured
from tintype.evaluation.step_times import steps_from
from tintype.models.network import Network
from tintype.ranks.parts import each_by_itself, first_ranks
from tintype.ranks.world import World
from tintype.records import to_plain
from tintype.runtime import Runtime
from tintype.training.fit import TrainingLoop
from tintype.training.step_clock import StepClock
from tintype.watch import Watch

WARM_STEPS = 3
"""Steps before those of a block: kernels are built, memory is taken, buckets find their order."""


@dataclass(frozen=True)
class Trained:
    """What is trained while it is measured.

    Attributes:
        network: With its first weights; every block trains a copy.
        cache: The images.
        split: Of which those to train on are taken.
        fit: Every number chosen; the batch is that of a cell.
        augment: Every number chosen.
        parallel: How gradients travel.
        runtime: Device, threads, precision and seed.
    """

    network: Network
    cache: ImageCache
    split: Split
    fit: FitConfig
    augment: AugmentConfig
    parallel: ParallelConfig
    runtime: Runtime


@dataclass(frozen=True)
class Cell:
    """What takes a turn.

    Attributes:
        ranks: How many train together; 0 where each trains by itself.
        images: In a step of theirs, or of each.
        has_factors: Of ranks that train by themselves: whether factors of dense layers take their way as among several.
    """

    ranks: int
    images: int
    has_factors: bool = False


def measure(
    trained: Trained, cells: Sequence[Cell], blocks: int, steps: int, world: World, watch: Watch
) -> dict[Cell, Measured]:
    """Measure every cell in every block. All ranks call this together and get the same.

    Args:
        trained: What is trained, on each rank.
        cells: What takes turns.
        blocks: How many turns.
        steps: In a turn, after :data:`WARM_STEPS`.
        world: All ranks.
        watch: Progress, messages and stopping.

    Raises:
        RunInterrupted: ``watch.should_stop`` said so on some rank.
        NonFiniteError: The training that is measured diverges.
    """
    worlds: dict[int, World | None] = {0: each_by_itself(world)}
    worlds |= {ranks: first_ranks(world, ranks) for ranks in sorted({cell.ranks for cell in cells} - {0})}
    mine: dict[Cell, list[Block]] = {cell: [] for cell in cells}
    for number in range(blocks):
        watch.on_message(f"steps: block {number + 1} of {blocks}")
        for cell in cells:
            part, block, stopped = worlds[cell.ranks], None, False
            if part is not None:
                try:
                    block = _block(trained, cell, steps, part, watch)
                except RunInterrupted:
                    stopped = True
            if any(world.any(stopped or watch.should_stop())):  # those who wait learn of it here
                raise RunInterrupted("stopped while steps were measured.")
            if block is not None:
                mine[cell].append(block)
    return _of_all_ranks(mine, cells, world)


def _block(trained: Trained, cell: Cell, steps: int, world: World, watch: Watch) -> Block:
    """Some steps, with this rank's own times alone."""
    clock, images = StepClock(), cell.images
    parallel = trained.parallel
    if cell.ranks == 0:
        parallel = parallel.model_copy(update={"dense_factors": cell.has_factors})
    split = replace(trained.split, validation=np.empty(0, dtype=np.int64))
    settings = {"batch_size": images, "steps_per_epoch": steps, "epochs": 2, "schedule": "constant", "keep": "last"}
    loop = TrainingLoop(
        copy.deepcopy(trained.network), trained.cache, split, trained.fit.model_copy(update=settings), trained.augment,
        replace(trained.runtime, world=world), None, parallel, clock,
    )  # fmt: skip
    loop.progress.step = max(0, steps - WARM_STEPS)  # as if the rest of an epoch had been trained before
    loop.run_epoch(watch.on_progress, watch.should_stop)
    clock.take()
    world.wait()
    record = loop.run_epoch(watch.on_progress, watch.should_stop)
    return Block(images / record.images_per_second, (tuple(clock.take()),))


def _of_all_ranks(mine: Mapping[Cell, Sequence[Block]], cells: Sequence[Cell], world: World) -> dict[Cell, Measured]:
    """Every cell with the steps of all ranks that took part, and the seconds that rank 0 counted."""
    told = world.exchange([[[block.seconds, to_plain(block.steps[0])] for block in mine[cell]] for cell in cells])
    found = {}
    for number, cell in enumerate(cells):
        ranks = told[: cell.ranks] if cell.ranks else told
        blocks = tuple(
            Block(turn[0][0], tuple(tuple(steps_from(steps)) for _, steps in turn))
            for turn in zip(*(rank[number] for rank in ranks), strict=True)
        )
        found[cell] = Measured(max(1, cell.ranks), cell.images, blocks)
    return found
