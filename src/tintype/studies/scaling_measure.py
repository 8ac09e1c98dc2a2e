"""What a study of scaling measures: steps of 1, 2, ... ranks, of each rank by itself, and the link between them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from tintype.config import RunConfig
from tintype.errors import ConfigError
from tintype.evaluation.scaling import Measured
from tintype.evaluation.scaling_model import Link
from tintype.preparing import build, prepare_data
from tintype.ranks.parts import each_by_itself
from tintype.ranks.world import World
from tintype.studies.scaling_plan import ScalingPlan
from tintype.together import require_same_data
from tintype.training.communication import Method, choose_method
from tintype.training.dense_factors import factored_layers, sends_factors
from tintype.training.link import measure_link
from tintype.training.scaling import Cell, Trained, measure
from tintype.watch import Watch

TRAVELS_AS: dict[Method, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""What gradients are on the link. Other ways are measured and not projected, nor are factors of dense layers: what they
send is no share of the gradients."""


@dataclass(frozen=True)
class Measurements:
    """Everything that was measured.

    Attributes:
        cells: What took turns.
        link: Between the ranks.
        batch: Images in a step of one rank.
        wire: Bytes on the link for each byte of gradients; None where nothing is projected.
        comm: How gradients travelled; where the settings leave it open, what all ranks together have chosen.
        gradient_bytes: Of a step, before they travel.
        precision: In which the network was computed.
        threads: Of each rank.
        train_images: How many there are to train on.
    """

    cells: dict[Cell, Measured]
    link: Link
    batch: int
    wire: float | None
    comm: Method
    gradient_bytes: int
    precision: str
    threads: int
    train_images: int


def measure_scaling(config: RunConfig, plan: ScalingPlan, world: World, watch: Watch) -> Measurements:
    """Measure what the plan asks for. All ranks call this together and get the same.

    Args:
        config: Of a run.
        plan: What is measured.
        world: All ranks.
        watch: Progress, messages and stopping.

    Raises:
        ConfigError: The study cannot be made with these settings, or with so few images.
        RunInterrupted: As :func:`tintype.training.scaling.measure`.
    """
    ranks = plan.ranks_of(world.size)
    data = prepare_data(config, watch, world)
    require_same_data(world, data)
    if data.runtime.device.type != "cpu":
        raise ConfigError(f"a study of scaling measures steps on CPUs, and the device is {data.runtime.device}.")
    if config.parallel.sync_batchnorm:
        raise ConfigError(
            "a study of scaling needs parallel.sync_batchnorm = false: some of the ranks train at a time."
        )
    # Memory and precision are those of one rank with a whole batch, as each has it in the largest of the cells.
    built = build(replace(data, runtime=replace(data.runtime, world=each_by_itself(world))))
    if built.cut is not None:
        raise ConfigError("a study of scaling trains whole networks: set fit.feature_cache = false under [base].")
    fit = built.plan.config.fit
    assert fit.batch_size is not None
    assert fit.micro_batch is not None
    precision, evidence = world.agree((built.runtime.precision, built.runtime.evidence))
    runtime = replace(built.runtime, precision=precision, evidence=evidence)
    gradients = sum(weight.numel() for weight in built.network.parameters() if weight.requires_grad)
    method, _ = choose_method(config.parallel, replace(runtime, world=world), gradients)
    trained = Trained(
        network=built.network,
        cache=data.cache,
        split=data.split,
        fit=fit.model_copy(update={"micro_batch": min(world.exchange(fit.micro_batch))}),
        augment=built.plan.config.augment,
        parallel=config.parallel.model_copy(update={"comm": method}),
        runtime=runtime,
    )
    cells = cells_of(plan, ranks, fit.batch_size, len(data.split.train))
    watch.on_message(f"link: {world.size} ranks")
    kind = TRAVELS_AS.get(method)
    link = measure_link(world, kind or torch.float32)
    rows = share_of(fit.batch_size, world.size if "strong" in plan.modes else 1)
    if sends_factors(config.parallel) and factored_layers(built.network, rows, world.size):
        kind = None
        watch.on_message(
            "factors of dense layers travel, which are no share of the gradients: nothing is projected. With "
            "parallel.dense_factors = false under [base] gradients travel, and are."
        )
    return Measurements(
        cells=measure(trained, cells, plan.blocks, plan.steps, world, watch),
        link=link,
        batch=fit.batch_size,
        wire=None if kind is None else kind.itemsize / torch.float32.itemsize,
        comm=method,
        gradient_bytes=4 * gradients,
        precision=precision,
        threads=runtime.threads,
        train_images=len(data.split.train),
    )


def cells_of(plan: ScalingPlan, ranks: tuple[int, ...], batch: int, train_images: int) -> list[Cell]:
    """What takes turns: one rank alone, ranks together in each mode, and ranks by themselves with their share.

    Raises:
        ConfigError: There are too few images for a step of all ranks, or in a batch for a share.
    """
    most = max(ranks)
    if "weak" in plan.modes and batch * most > train_images:
        raise ConfigError(
            f"a step of {most} ranks takes {batch * most} images, and there are {train_images:,} to train on."
        )
    if "strong" in plan.modes and batch < most:
        raise ConfigError(f"a step of {batch} images cannot be shared by {most} ranks: take a larger fit.batch_size.")
    several = [number for number in ranks if number > 1]
    shares = [batch]
    cells = [Cell(1, batch)]
    if "strong" in plan.modes:
        cells += [Cell(number, batch) for number in several]
        shares += [share_of(batch, number) for number in (*several, *plan.machines) if number <= batch]
    if "weak" in plan.modes:
        cells += [Cell(number, batch * number) for number in several]
    return [*cells, *(Cell(0, share) for share in dict.fromkeys(shares))]


def share_of(batch: int, ranks: int) -> int:
    """Images of the rank that has the most of a step's."""
    return -(-batch // ranks)
