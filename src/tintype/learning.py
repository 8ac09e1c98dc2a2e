"""How a run learns: frozen layers run once, then the head, then whatever else trains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from tintype.config import ModelConfig, RunConfig
from tintype.data.cache import ImageCache
from tintype.data.features import FeatureCache
from tintype.models.build import backbone_of
from tintype.models.graph import find_boundary
from tintype.models.network import BACKBONE, Network
from tintype.preparing import Built, Prepared
from tintype.records import EpochRecord
from tintype.runtime import Runtime
from tintype.training.features import CutNetwork, choose_front_precision, cut_network, features_bytes, run_frozen
from tintype.training.fit import Fitted, fit
from tintype.training.head_grid import fit_head_grid
from tintype.training.heads import FittedHeads
from tintype.training.logistic import LogisticHead
from tintype.training.optim import monitored
from tintype.training.output_layer import fit_output_layer
from tintype.training.threads import SteppingAside
from tintype.watch import Watch

OnEpoch = Callable[[EpochRecord, int], None]


@dataclass(frozen=True)
class Learnt:
    """What came out of training.

    Attributes:
        fitted: What was trained: the whole network, or the part behind the frozen layers.
        inputs: What it takes: images, or what the frozen layers said of them.
        logistic: The penalties that were tried, where the output layer was fitted as a logistic regression.
        heads: The heads that were tried, where there was a grid of them.
    """

    fitted: Fitted
    inputs: ImageCache | FeatureCache
    logistic: LogisticHead | None = None
    heads: FittedHeads | None = None

    def judged(self, built: Built, data: Prepared) -> tuple[Network, ImageCache | FeatureCache]:
        """What classifies, and what it takes: the trained part and what it saw, or the whole network and the images.

        What frozen layers said is kept of the images as they are; their mirror images go through the whole network.
        """
        if built.plan.config.model.flip_average:
            return built.network, data.cache
        return self.fitted.network, self.inputs

    def model_config(self, config: ModelConfig) -> ModelConfig:
        """The architecture with the head that was chosen."""
        if self.heads is None:
            return config
        return config.model_copy(update={"head": self.heads.results[self.heads.best()].setting.layers or None})


def learn(built: Built, data: Prepared, checkpoint: Path | None, watch: Watch, on_epoch: OnEpoch) -> Learnt:
    """Train a network, and keep its best weights.

    Args:
        built: The network; trained in place.
        data: Images, split and settings.
        checkpoint: Where to save; what lies there already is resumed. None: nowhere.
        watch: Progress and stopping.
        on_epoch: Called with each epoch's record and the number of epochs.

    Raises:
        NonFiniteError: The loss was not finite; the last checkpoint is whole.
        RunInterrupted: It was asked to stop.
        DataError: The features do not fit on the disk.
    """
    config = built.plan.config
    inputs = trained_inputs(built.cut, data, config, built.runtime, watch)
    if config.fit.optimizer == "lbfgs":
        assert built.cut is not None
        assert isinstance(inputs, FeatureCache)
        fitted, logistic = fit_output_layer(built.cut.tail, inputs, data.split, config.fit, built.runtime, watch)
        on_epoch(fitted.history[0], 1)
        return Learnt(fitted, inputs, logistic)
    if config.heads is not None:
        assert built.cut is not None
        assert isinstance(inputs, FeatureCache)
        fitted, heads = fit_head_grid(
            built.network, built.cut, inputs, data.split, config.heads, config.fit, built.runtime, watch
        )
        for record in fitted.history:
            on_epoch(record, len(fitted.history))
        watch.on_message(_best_of(heads))
        return Learnt(fitted, inputs, heads=heads)
    rows: tuple[EpochRecord, ...] = ()
    head: LogisticHead | None = None
    if config.fit.head_epochs and not built.runtime.world.agree(checkpoint is not None and checkpoint.exists()):
        rows, head = _head_first(built, data, config, watch, on_epoch)
    # Fine-tuning may make a network worse than its head alone had made it.
    start = max(reversed(rows), key=lambda row: monitored(config.fit, row)) if rows else None
    before = config.fit.head_epochs or 0
    fitted = _fit(built.trained, inputs, data, config, built, watch, checkpoint, on_epoch, before, start)
    if start is not None and fitted.kept_epoch == before:
        fitted = replace(fitted, kept_epoch=start.epoch)
    return Learnt(replace(fitted, history=(*rows, *fitted.history)), inputs, head)


def _best_of(heads: FittedHeads) -> str:
    best = heads.results[heads.best()]
    failed = sum(bool(result.failed) for result in heads.results)
    setting = best.setting
    line = (
        f"best of {len(heads.results)} heads by the mean validation loss of its seeds: learning rate "
        f"{setting.learning_rate:g}, weight decay {setting.weight_decay:g}, width {setting.width}, dropout "
        f"{setting.dropout:g}, epoch {best.best_epoch}"
    )
    return f"{line}; {failed} could not be trained" if failed else line


def trained_inputs(
    cut: CutNetwork | None, data: Prepared, config: RunConfig, runtime: Runtime, watch: Watch
) -> ImageCache | FeatureCache:
    """What the trained part sees: the images, or what the frozen layers say of them, run once.

    Args:
        cut: The network in two parts; None where no frozen part is run apart.
        data: Images and split.
        config: ``fit`` and ``augment`` count; resolved.
        runtime: Where the frozen layers run.
        watch: Progress and messages.

    Raises:
        DataError: The features do not fit on the disk.
    """
    if cut is None:
        return data.cache
    needed = features_bytes(cut, data.cache, data.split, config.fit)
    features = run_frozen(cut, data.cache, data.split, config.fit, config.augment, runtime, watch.on_progress)
    values = " x ".join(str(size) for size in features.shape)
    views = f"{features.views} views of {len(data.split.train):,} training images" if features.views > 1 else "1 view"
    watch.on_message(
        f"frozen layers: {values} values an image, {views}, {needed / 2**20:,.1f} MiB on disk, "
        + ("run once" if features.was_built else "run earlier")
    )
    if features.sharing:
        watch.on_message(features.sharing)
    return features


def _head_first(
    built: Built, data: Prepared, config: RunConfig, watch: Watch, on_epoch: OnEpoch
) -> tuple[tuple[EpochRecord, ...], LogisticHead | None]:
    """Train the head with the whole backbone frozen, so that a random head does not spoil it (Kumar et al., 2022)."""
    network, frozen = built.network, built.network.frozen
    backbone = backbone_of(network)
    assert backbone is not None
    network.freeze([f"body.{BACKBONE}"])
    try:
        cut = cut_network(network, find_boundary(backbone, "all")) if config.fit.feature_cache else None
        # One view is enough for a start, and costs an eighth.
        plain = config.replace({"fit.views": 1})
        if cut is not None:
            wanted = config.fit.feature_precision
            precision, _ = choose_front_precision(cut, built.runtime, data.cache, wanted)
            plain = plain.replace({"fit.feature_precision": precision})
        inputs = trained_inputs(cut, data, plain, built.runtime, watch)
        if cut is not None and isinstance(inputs, FeatureCache) and config.model.head is None:
            fitted, head = fit_output_layer(cut.tail, inputs, data.split, config.fit, built.runtime, watch)
            assert config.fit.epochs is not None
            on_epoch(fitted.history[0], config.fit.epochs + 1)
            return fitted.history, head
        trained: Network = network if cut is None else cut.tail
        alone = config.replace({"fit.epochs": config.fit.head_epochs})
        fitted = _fit(trained, inputs, data, alone, built, watch, None, on_epoch, 0, None)
        return fitted.history, None
    finally:
        network.freeze(frozen)


def _fit(
    trained: Network, inputs: ImageCache | FeatureCache, data: Prepared, config: RunConfig, built: Built, watch: Watch,
    checkpoint: Path | None, on_epoch: OnEpoch, epochs_before: int, start: EpochRecord | None,
) -> Fitted:  # fmt: skip
    """The loop, its epochs numbered after those that came before."""
    assert config.fit.epochs is not None
    epochs = config.fit.epochs + epochs_before

    aside = SteppingAside(built.runtime.threads, watch.on_message) if built.runtime.steps_aside else None

    def numbered(record: EpochRecord) -> EpochRecord:
        return replace(record, epoch=record.epoch + epochs_before)

    def on_progress(what: str, done: int, total: int) -> None:
        if aside is not None:
            aside.step()
        watch.on_progress(what, done, total)

    fitted = fit(
        trained, inputs, data.split, config.fit, config.augment, built.runtime, parallel=config.parallel,
        checkpoint=checkpoint, start=start,
        on_epoch=lambda record: on_epoch(numbered(record), epochs), on_progress=on_progress,
        should_stop=watch.should_stop, should_finish=watch.should_finish,
    )  # fmt: skip
    history = tuple(numbered(record) for record in fitted.history)
    return replace(fitted, history=history, kept_epoch=fitted.kept_epoch + epochs_before)
