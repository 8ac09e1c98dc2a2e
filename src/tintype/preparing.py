"""What comes before training: data that is read, decoded, split and audited, and a network that fits the machine."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from tintype.config import DataConfig, ModelConfig, RunConfig
from tintype.data.audit import Audit, audit
from tintype.data.cache import Headers, ImageCache, build_cache, scan_headers
from tintype.data.decode import Geometry, geometry_of
from tintype.data.index import ImageIndex
from tintype.data.same import require_same_images
from tintype.data.shift import image_statistics
from tintype.data.sources import read_index
from tintype.data.split import Split, make_split
from tintype.data.standardize import pixel_statistics
from tintype.models.backbones import load_backbone
from tintype.models.build import backbone_of, build_network, freeze_setting
from tintype.models.graph import Boundary, find_boundary
from tintype.models.network import Network
from tintype.models.pretrained import find_weights
from tintype.models.quick import QuickTraining
from tintype.models.weights import load_weights
from tintype.planning import Plan, plan_data, plan_ranks, plan_training
from tintype.ranks.world import ALONE, World
from tintype.records import ImageStatistics
from tintype.runtime import Runtime, available_memory, import_ahead, probe_images, start_runtime
from tintype.training.communication import choose_method
from tintype.training.dense_factors import factored_layers, sends_factors
from tintype.training.features import CutNetwork, choose_front_precision, cut_network, some_features
from tintype.training.memory import activation_bytes, largest_micro_batch
from tintype.training.threads import choose_computing
from tintype.watch import Watch


@dataclass(frozen=True)
class Prepared:
    """Data that is ready to be trained on, the settings with nothing left open, and where to compute."""

    plan: Plan
    runtime: Runtime
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


def prepare_data(config: RunConfig, watch: Watch, world: World = ALONE) -> Prepared:
    """Read, plan, decode, split and audit; the part of a run that needs no network.

    Args:
        config: Settings; what is None is chosen.
        watch: Progress and messages.
        world: The processes that train together; each of them calls this with data of its own, which must be the same.

    Raises:
        ConfigError: The device does not exist here; said before anything is decoded.
        DataError: The data cannot be used as it is.
        RankError: The ranks' data differ.
    """
    runtime = start_runtime(config.device, config.threads, config.seed, world)
    return list_images(config, watch).prepare(config, runtime, watch)


def list_images(config: RunConfig, watch: Watch) -> Listed:
    """Read which images there are, and their sizes; nothing is decoded.

    Args:
        config: ``data`` counts.
        watch: Progress and messages.

    Raises:
        DataError: The data cannot be used as it is.
    """
    index = read_index(config.data)
    watch.on_message(index.description)
    return Listed(index, scan_headers(index, config.data, watch.on_progress))


@dataclass
class Listed:
    """Images by name and size. What is prepared with several settings is decoded and audited once for each geometry.

    Attributes:
        index: The images.
        headers: Their sizes and modes.
    """

    index: ImageIndex
    headers: Headers
    _caches: dict[Geometry, ImageCache] = field(default_factory=dict)
    _splits: dict[tuple[DataConfig, int], tuple[Split, Audit, ImageStatistics]] = field(default_factory=dict)

    def prepare(self, config: RunConfig, runtime: Runtime, watch: Watch) -> Prepared:
        """Plan, decode, split and audit.

        Args:
            config: Settings; what is None is chosen.
            runtime: Where to compute, and with which ranks.
            watch: Progress and messages.

        Raises:
            DataError: The data cannot be used as it is.
            RankError: The ranks' data differ.
        """
        plan = plan_data(config, self.index, self.headers)
        if plan.config.model.backbone is not None:
            import_ahead("timm")  # two seconds that reading and decoding can hide
        cache = self._cache(plan.config.data, runtime.world, watch)
        key = plan.config.data, 0 if plan.config.data.train_images is None else config.seed
        if key not in self._splits:
            split = make_split(self.index, cache.usable, plan.config.data, config.seed)
            watch.on_message(split.description)
            found = audit(cache, split, watch.on_progress)
            self._splits[key] = split, found, image_statistics(cache, split.train)
        split, found, statistics = self._splits[key]
        plan = plan_training(plan, len(self.index.classes), len(split.train))
        plan = plan_ranks(plan, runtime.world.size, len(split.train))
        return Prepared(plan, runtime, cache, split, found, statistics)

    def _cache(self, config: DataConfig, world: World, watch: Watch) -> ImageCache:
        geometry = geometry_of(config)
        if geometry not in self._caches:
            require_same_images(self.index, geometry, world)
            self._caches[geometry] = cache = build_cache(self.index, config, watch.on_progress, world)
            if cache.sharing:
                watch.on_message(cache.sharing)
        return self._caches[geometry]


@dataclass(frozen=True)
class Built:
    """A network that is ready to be trained.

    Attributes:
        network: The whole.
        cut: It in two parts, where frozen layers are to be run once; None where every layer sees every batch.
        runtime: How what trains is computed.
        plan: With batch and precision settled.
    """

    network: Network
    cut: CutNetwork | None
    runtime: Runtime
    plan: Plan

    @property
    def trained(self) -> Network:
        """What the training loop runs: the part behind the cut, or the whole."""
        return self.network if self.cut is None else self.cut.tail


def build(data: Prepared) -> Built:
    """The network with its first weights, cut where it is frozen, and how it is computed.

    Raises:
        ConfigError: The settings do not fit the network, or its weights do not.
    """
    plan, config, runtime = data.plan, data.plan.config, data.runtime
    network = _network(data)
    network.place(runtime.device)
    boundary = boundary_of(network, config.model)
    cut = cut_network(network, boundary) if boundary is not None and config.fit.feature_cache else None
    if boundary is not None and boundary.frozen:
        plan = plan.noted("model.freeze", f"{boundary.frozen} of {boundary.layers} layers", _what_is_frozen(boundary))
    if network.held and not (boundary is not None and boundary.is_everything):
        reason = "the weights hold them already: with those of a batch this would be another network"
        plan = plan.noted("batch statistics", "not used", reason)
    if cut is not None:
        wanted = config.fit.feature_precision
        precision, evidence = choose_front_precision(cut, runtime, data.cache, wanted)
        plan = plan.settled("fit.feature_precision", precision, evidence if wanted == "auto" else None)
    if plan.config.fit.optimizer == "lbfgs":
        runtime = replace(runtime, precision="fp32", evidence="the output layer is fitted in fp32")
        plan = plan.settled("precision", "fp32").settled("threads", runtime.threads)
        return Built(network, cut, runtime, plan)
    assert plan.config.fit.batch_size is not None
    if cut is None:
        inputs = probe_images(data.input_shape, plan.config.fit.batch_size, runtime.device)
    else:
        inputs = some_features(cut, data.cache, data.split, plan.config.fit, runtime)
    plan, runtime = _settle_computing(plan, network if cut is None else cut.tail, runtime, inputs)
    return Built(network, cut, runtime, plan)


def boundary_of(network: Network, config: ModelConfig) -> Boundary | None:
    """Where the network's backbone is frozen; None for a network without one."""
    backbone = backbone_of(network)
    return None if backbone is None else find_boundary(backbone, freeze_setting(config, backbone))


def _network(data: Prepared) -> Network:
    """The network on the CPU, with pretrained weights where there are any and else random ones."""
    config, cache = data.plan.config, data.cache
    model, classes = config.model, len(cache.index.classes)
    source = None if model.backbone is None else find_weights(model.backbone, model.weights)
    if source is None:
        mean, deviation = pixel_statistics(cache, data.split.train, model.standardize)
    else:
        mean, deviation = np.array(source.mean), np.array(source.std)
    torch.manual_seed(config.seed)
    network = build_network(model, data.input_shape, classes, mean, deviation)
    backbone = backbone_of(network)
    if backbone is not None and source is not None:
        load_backbone(backbone, source.path)
        network.hold_folded_statistics()
    elif backbone is None:
        _load_own(network, model)
    return network


def _load_own(network: Network, model: ModelConfig) -> None:
    """Weights for a whole network, where a file of them is named."""
    if model.weights not in (None, "auto", "none"):
        load_weights(network, Path(model.weights).expanduser())


def redrawn(data: Prepared, network: Network) -> Network | None:
    """A network of one's own with other random weights, where it is frozen in part; else None.

    What is the same in both was not drawn but loaded, which nothing else about such a network tells.
    """
    model = data.plan.config.model
    if model.backbone is not None or all(parameter.requires_grad for parameter in network.parameters()):
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(data.plan.config.seed + 1)
        again = build_network(model, data.input_shape, len(data.cache.index.classes), network.mean, network.std)
    _load_own(again, model)
    return again


def _what_is_frozen(boundary: Boundary) -> str:
    if boundary.is_everything:
        return "the backbone stays as it is"
    return f"up to {boundary.name}; the rest of the backbone trains"


def _settle_computing(plan: Plan, trained: Network, runtime: Runtime, inputs: torch.Tensor) -> tuple[Plan, Runtime]:
    """Choose precision, threads and micro-batch for what trains, given a batch like those it will see."""
    config = plan.config
    with QuickTraining(trained, runtime.device):
        runtime, said = choose_computing(runtime, trained, inputs, config)
    precision, evidence = runtime.world.agree((runtime.precision, runtime.evidence))
    runtime = replace(runtime, precision=precision, evidence=evidence)
    reason = runtime.evidence if config.precision == "auto" else None
    plan = plan.settled("precision", runtime.precision, reason).settled("threads", runtime.threads, said)
    if not runtime.world.is_alone:
        plan = _settle_communication(plan, trained, runtime)
    return _fit_into_memory(plan, trained, runtime, inputs[:2]), runtime


def _settle_communication(plan: Plan, trained: Network, runtime: Runtime) -> Plan:
    """Choose how gradients travel, and say which of them travel as factors."""
    config, world = plan.config.parallel, runtime.world
    gradients = sum(weight.numel() for weight in trained.parameters() if weight.requires_grad)
    assert plan.config.fit.batch_size is not None
    rows = world.largest_part(plan.config.fit.batch_size)
    factored = factored_layers(trained, rows, world.size) if sends_factors(config) else {}
    products = sum(layer.weight.numel() for layer in factored.values())
    method, reason = choose_method(config, runtime, gradients - products)
    plan = plan.settled("parallel.comm", method, reason if config.comm == "auto" else None)
    if not factored:
        return plan
    factors = sum(rows * (layer.in_features + layer.out_features) for layer in factored.values())
    said = f"{', '.join(factored)}: {factors:,} values travel in place of {products:,}"
    return plan.settled("parallel.dense_factors", True, said)


def _fit_into_memory(plan: Plan, network: Network, runtime: Runtime, inputs: torch.Tensor) -> Plan:
    """Choose the part of a batch that goes through the network at once."""
    batch_size = plan.config.fit.batch_size
    assert batch_size is not None
    if plan.config.fit.micro_batch is not None:
        return plan
    with QuickTraining(network, runtime.device):
        needed = activation_bytes(network, inputs, runtime)
    world = runtime.world
    sharing = 1 if runtime.device.type == "cuda" else world.local_size
    free = available_memory(runtime.device, plan.config.memory_gb) // sharing
    share = world.largest_part(batch_size)
    part = largest_micro_batch(share, needed, free)
    if part == share:
        return plan.settled("fit.micro_batch", part)
    reason = (
        f"{needed / 2**20:,.1f} MiB of activations an image, {free / 2**20:,.0f} MiB free; gradients are added up, "
        f"so a step still counts {batch_size} images"
    )
    return plan.settled("fit.micro_batch", part, reason)
