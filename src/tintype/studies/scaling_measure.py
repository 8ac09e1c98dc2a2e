"""What a study of scaling measures: steps of 1, 2, ... ranks, of each rank by itself, and the link between them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from tintype.config import RunConfig
from tintype.errors import ConfigError
from tintype.evaluation.scaling import Measured
from tintype.evaluation.scaling_model import Link, Traffic
from tintype.preparing import Built, Prepared, build, prepare_data
from tintype.ranks.parts import each_by_itself
from tintype.ranks.world import World
from tintype.studies.scaling_cells import Share, cells_of, layers_with_factors, product_times, shares_of
from tintype.studies.scaling_plan import ScalingPlan
from tintype.together import require_same_data
from tintype.training.communication import Method, choose_method
from tintype.training.link import measure_link
from tintype.training.scaling import Cell, Trained, measure
from tintype.watch import Watch

TRAVELS_AS: dict[Method, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""What gradients are on the link. Other ways are measured and not projected: what they send is no share of them."""


@dataclass(frozen=True)
class Measurements:
    """Everything that was measured.

    Attributes:
        cells: What took turns.
        link: Between the ranks.
        batch: Images in a step of one rank.
        wire: Bytes on the link for each byte of gradients; None where nothing is projected.
        comm: How gradients travelled; where the settings leave it open, what all ranks together have chosen.
        factored: The dense layers that send factors, by name, for every share that is measured or projected, and for
            one rank with as many images.
        products: Seconds by which multiplying out the factors of all ranks takes longer than those of one, likewise.
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
    factored: dict[Share, tuple[str, ...]]
    products: dict[Share, float]
    gradient_bytes: int
    precision: str
    threads: int
    train_images: int

    def apart(self, ranks: int, images: int) -> Measured:
        """Every rank by itself, with as many images as it has among so many ranks, and what it sends there."""
        return self.cells[Cell(0, images, bool(self.factored[ranks, images]))]

    def traffic(self, ranks: int, images: int) -> Traffic:
        """What travels among so many ranks, each with so many images.

        A rank by itself showed it unless other layers send factors there: then it cannot be told.
        """
        names = self.factored[ranks, images]
        is_known = names in ((), self.factored[1, images])
        return Traffic(self.link, self.wire if is_known else None, self.products[ranks, images])

    @property
    def sent_as_factors(self) -> tuple[str, ...]:
        """The layers whose factors travel among some number of ranks."""
        names = (name for (ranks, _), found in self.factored.items() if ranks > 1 for name in found)
        return tuple(dict.fromkeys(names))


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
    built = _built(config, data, world)
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
    layers = layers_with_factors(built.network, trained.parallel, shares_of(plan, ranks, fit.batch_size))
    factored = {share: tuple(found) for share, found in layers.items()}
    cells = cells_of(plan, ranks, fit.batch_size, len(data.split.train), factored)
    watch.on_message(f"link: {world.size} ranks")
    kind = TRAVELS_AS.get(method)
    link = measure_link(world, kind or torch.float32)
    return Measurements(
        cells=measure(trained, cells, plan.blocks, plan.steps, world, watch),
        link=link,
        batch=fit.batch_size,
        wire=None if kind is None else kind.itemsize / torch.float32.itemsize,
        comm=method,
        factored=factored,
        products=product_times(layers, torch.bfloat16 if precision == "bf16" else torch.float32, world),
        gradient_bytes=4 * gradients,
        precision=precision,
        threads=runtime.threads,
        train_images=len(data.split.train),
    )


def _built(config: RunConfig, data: Prepared, world: World) -> Built:
    """The network, where its steps can be measured."""
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
    return built
