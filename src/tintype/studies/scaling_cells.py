"""What takes turns in a study of scaling, and what each rank sends there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache

import torch
from torch import nn

from tintype.config import ParallelConfig
from tintype.errors import ConfigError
from tintype.models.network import Network
from tintype.ranks.world import World, largest_part
from tintype.studies.scaling_plan import ScalingPlan
from tintype.training.dense_factors import factored_layers, product_seconds, sends_factors
from tintype.training.scaling import Cell

Share = tuple[int, int]
"""How many ranks there are, and how many images of a step the one has that has the most."""


def shares_of(plan: ScalingPlan, ranks: tuple[int, ...], batch: int) -> list[Share]:
    """What a rank has of a step, alone and in all that is measured or projected."""
    several = [number for number in (*ranks, *plan.machines) if number > 1]
    shares = [(1, batch)]
    if "strong" in plan.modes:
        shares += [(number, largest_part(batch, number)) for number in several if number <= batch]
    if "weak" in plan.modes:
        shares += [(number, batch) for number in several]
    return list(dict.fromkeys(shares))


def cells_of(
    plan: ScalingPlan, ranks: tuple[int, ...], batch: int, train_images: int,
    factored: Mapping[Share, tuple[str, ...]],
) -> list[Cell]:  # fmt: skip
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
    cells = [Cell(1, batch)]
    if "strong" in plan.modes:
        cells += [Cell(number, batch) for number in several]
    if "weak" in plan.modes:
        cells += [Cell(number, batch * number) for number in several]
    apart = [Cell(0, share[1], bool(factored.get(share))) for share in shares_of(plan, ranks, batch)]
    return [*cells, *dict.fromkeys(apart)]


def layers_with_factors(
    network: Network, config: ParallelConfig, shares: Iterable[Share]
) -> dict[Share, dict[str, nn.Linear]]:
    """The layers that send factors for each share, and for one rank with as many images."""
    wanted = {share for ranks, images in shares for share in ((ranks, images), (1, images))}
    if not sends_factors(config):
        return {share: {} for share in wanted}
    return {(ranks, images): factored_layers(network, images, ranks) for ranks, images in sorted(wanted)}


def product_times(layers: dict[Share, dict[str, nn.Linear]], kind: torch.dtype, world: World) -> dict[Share, float]:
    """Seconds by which multiplying out takes longer with the images of all ranks than with those of one."""

    @cache
    def seconds(found: tuple[nn.Linear, ...], images: int) -> float:
        return product_seconds(found, images, kind, world)

    return {
        (ranks, images): max(
            0.0, seconds(tuple(found.values()), ranks * images) - seconds(tuple(found.values()), images)
        )
        for (ranks, images), found in layers.items()
    }
