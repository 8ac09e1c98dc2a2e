"""Many heads at once: the candidates of a search that stand on the same kept features train together in seconds."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tintype.config import HeadsConfig, RunConfig
from tintype.data.features import FeatureCache
from tintype.errors import RunInterrupted
from tintype.learning import trained_inputs
from tintype.models.network import Tail
from tintype.preparing import Prepared, build
from tintype.training.head_grid import HeadInputs, fit_settings, head_inputs
from tintype.training.heads import FittedHeads, expand
from tintype.tuning.score import Failed, Score
from tintype.tuning.space import Candidate
from tintype.watch import Watch

MOST_BYTES = 2**31
"""What the vectors that are kept in memory may take: eight views of 25,000 images with 1,280 values each."""

Prepare = Callable[[Mapping[str, Any]], Prepared]
"""Images, split and resolved settings for the settings of a candidate."""


@dataclass(frozen=True)
class _Stand:
    """What all heads on the same features have in common.

    Attributes:
        config: Settings of the one for whom they were computed; resolved.
        tail: Its network behind the features.
        seen: The vectors.
        parameters: Of the network without its output layer.
        image_size: Side of the images in pixels.
    """

    config: RunConfig
    tail: Tail
    seen: HeadInputs
    parameters: int
    image_size: int


class HeadBatch:
    """Trains candidates that are only heads, and keeps what they see in memory between batches.

    A candidate scores what ``tintype train`` gives with its settings and the same seed on the validation images.

    Args:
        prepare: Gives the images and the resolved settings for a candidate's settings; their split must have
            validation images.
        watch: Progress and messages.
        most_bytes: What the vectors may take. Those that were not used for the longest are let go; those of the current
            batch stay in any case.
    """

    def __init__(self, prepare: Prepare, watch: Watch = Watch(), most_bytes: int = MOST_BYTES) -> None:
        self._prepare, self._watch, self._most_bytes = prepare, watch, most_bytes
        self._stands: OrderedDict[str, _Stand] = OrderedDict()

    @property
    def kept(self) -> tuple[str, ...]:
        """Keys of the features that are in memory, the last used at the end."""
        return tuple(self._stands)

    def score(
        self, candidates: Sequence[Candidate], seed: int, should_stop: Callable[[], bool] = lambda: False
    ) -> list[Score | Failed]:
        """Train heads together, each as it would be trained alone.

        Args:
            candidates: All with the same features, and with settings that differ in those of the head alone.
            seed: Decides on initial weights, on what is dropped, and on the order of the images.
            should_stop: Asked after each training step, and while features are computed.

        Returns:
            What became of each, in their order. They share the time.

        Raises:
            DataError: The features do not fit on the disk.
            ConfigError: The settings do not fit the network.
            RunInterrupted: ``should_stop`` said so.
        """
        assert candidates
        assert len({candidate.features for candidate in candidates}) == 1
        assert all(_shared(candidate) == _shared(candidates[0]) for candidate in candidates)
        watch = _stopped_by(should_stop, self._watch)
        stand = self._stand(candidates[0], watch)
        configs = [stand.config.replace(candidate.settings) for candidate in candidates]
        settings = [setting for config in configs for setting in expand(config.heads or HeadsConfig(), seed)]
        assert len(settings) == len(candidates), "a candidate is one head"
        started = time.monotonic()
        heads = fit_settings(stand.seen, settings, stand.tail.output, configs[0].fit, seed, watch)
        rights = [_right(stand, heads, number) for number in range(len(settings))]
        seconds = (time.monotonic() - started) / len(settings)
        return [_score(stand, heads, number, right, seconds) for number, right in enumerate(rights)]

    def _stand(self, candidate: Candidate, watch: Watch) -> _Stand:
        key = candidate.features
        if key not in self._stands:
            self._stands[key] = _prepared_stand(self._prepare(candidate.settings), watch)
        self._stands.move_to_end(key)
        while len(self._stands) > 1 and sum(stand.seen.nbytes for stand in self._stands.values()) > self._most_bytes:
            self._stands.popitem(last=False)
        return self._stands[key]


def _shared(candidate: Candidate) -> dict[str, Any]:
    """Settings that all heads of a batch have in common."""
    return {name: value for name, value in candidate.settings.items() if not name.startswith("heads.")}


def _stopped_by(should_stop: Callable[[], bool], watch: Watch) -> Watch:
    """A watch under which running the frozen layers can be stopped too."""

    def on_progress(what: str, done: int, total: int) -> None:
        watch.on_progress(what, done, total)
        if should_stop():
            raise RunInterrupted(f"stopped while {what}, at {done:,} of {total:,}.")

    return replace(watch, on_progress=on_progress, should_stop=should_stop)


def _prepared_stand(data: Prepared, watch: Watch) -> _Stand:
    built = build(data)
    cut, config, network = built.cut, built.plan.config, built.network
    assert cut is not None
    features = trained_inputs(cut, data, config, built.runtime, watch)
    assert isinstance(features, FeatureCache)
    seen = head_inputs(cut.tail, features, data.split, built.runtime)
    assert len(seen.validation_labels), "heads are told apart by the validation images"
    parameters = sum(tensor.numel() for tensor in network.parameters())
    parameters -= sum(tensor.numel() for tensor in network.head.parameters())
    return _Stand(config, cut.tail, seen, parameters, data.cache.geometry.size)


@torch.inference_mode()
def _right(stand: _Stand, heads: FittedHeads, number: int) -> NDArray[np.bool_] | None:
    """(V,) whether each validation image is right with a head's best weights; None where it failed."""
    if heads.results[number].failed:
        return None
    body, output = heads.module(number)
    device = stand.seen.validation.device
    logits_VC = output.to(device)(body.to(device).eval()(stand.seen.validation))
    predicted_V = stand.tail.probabilities(logits_VC).argmax(dim=1).cpu().numpy()
    return np.asarray(predicted_V == stand.seen.validation_labels)


def _score(
    stand: _Stand, heads: FittedHeads, number: int, right_V: NDArray[np.bool_] | None, seconds: float
) -> Score | Failed:
    result = heads.results[number]
    if right_V is None:
        return Failed(result.failed)
    return Score(
        accuracy=float(right_V.mean()),
        loss=result.score,
        right=right_V,
        seconds=seconds,
        parameters=stand.parameters + sum(tensor.numel() for tensor in heads.weights[number].values()),
        epochs=len(result.history),
        image_size=stand.image_size,
    )
