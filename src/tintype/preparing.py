"""What comes before training: data that is read, decoded, split and audited, and a network that fits the machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from tintype.config import RunConfig
from tintype.data.audit import Audit, audit
from tintype.data.cache import ImageCache, build_cache, scan_headers
from tintype.data.shift import image_statistics
from tintype.data.sources import read_index
from tintype.data.split import Split, make_split
from tintype.data.standardize import pixel_statistics
from tintype.models.build import build_network
from tintype.models.network import Network
from tintype.models.weights import load_weights
from tintype.planning import Plan, plan_data, plan_training
from tintype.records import ImageStatistics
from tintype.runtime import Runtime, available_memory, choose_precision, start_runtime
from tintype.training.memory import activation_bytes, largest_micro_batch
from tintype.watch import Watch


@dataclass(frozen=True)
class Prepared:
    """Data that is ready to be trained on, and the settings with nothing left open."""

    plan: Plan
    cache: ImageCache
    split: Split
    audit: Audit
    statistics: ImageStatistics

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of a decoded image."""
        return input_shape(self.cache)


def input_shape(cache: ImageCache) -> tuple[int, int, int]:
    """(channels, height, width) of a decoded image."""
    return cache.geometry.channels, cache.geometry.size, cache.geometry.size


def prepare_data(config: RunConfig, watch: Watch) -> Prepared:
    """Read, plan, decode, split and audit; the part of a run that needs no network.

    Raises:
        DataError: The data cannot be used as it is.
    """
    index = read_index(config.data)
    watch.on_message(index.description)
    headers = scan_headers(index, config.data, watch.on_progress)
    plan = plan_data(config, index, headers)
    cache = build_cache(index, plan.config.data, watch.on_progress)
    split = make_split(index, cache.usable, plan.config.data)
    watch.on_message(split.description)
    plan = plan_training(plan, len(index.classes), len(split.train))
    return Prepared(plan, cache, split, audit(cache, split, watch.on_progress), image_statistics(cache, split.train))


def build(data: Prepared) -> tuple[Network, Runtime, Plan]:
    """The network with its first weights, how it is computed, and the plan with batch and precision settled."""
    config, cache = data.plan.config, data.cache
    runtime = start_runtime(config.device, config.threads, config.seed)
    mean, deviation = pixel_statistics(cache, data.split.train, config.model.standardize)
    torch.manual_seed(config.seed)
    network = build_network(config.model, data.input_shape, len(cache.index.classes), mean, deviation)
    if config.model.weights is not None:
        load_weights(network, Path(config.model.weights).expanduser())
    network.to(device=runtime.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert config.fit.batch_size is not None
    runtime = choose_precision(runtime, network, data.input_shape, config.fit.batch_size, config.precision)
    plan = _fit_into_memory(data.plan, network, runtime, data.input_shape)
    settled = plan.config.replace({"precision": runtime.precision, "threads": runtime.threads})
    choices = plan.choices
    if config.precision == "auto":
        choices = (*choices, ("precision", runtime.precision, runtime.evidence))
    return network, runtime, Plan(settled, choices)


def _fit_into_memory(plan: Plan, network: Network, runtime: Runtime, shape: tuple[int, int, int]) -> Plan:
    """Choose the part of a batch that goes through the network at once."""
    batch_size = plan.config.fit.batch_size
    assert batch_size is not None
    if plan.config.fit.micro_batch is not None:
        return plan
    needed = activation_bytes(network, shape, runtime)
    free = available_memory(runtime.device, plan.config.memory_gb)
    part = largest_micro_batch(batch_size, needed, free)
    config = plan.config.replace({"fit.micro_batch": part})
    if part == batch_size:
        return Plan(config, plan.choices)
    reason = (
        f"{needed / 2**20:,.1f} MiB of activations an image, {free / 2**20:,.0f} MiB free; gradients are added up, "
        f"so a step still counts {batch_size} images"
    )
    return Plan(config, (*plan.choices, ("fit.micro_batch", str(part), reason)))
