"""Rules about the network: numbers that are not finite, inputs in the wrong scale, modes that disagree, dead layers."""

from __future__ import annotations

from collections.abc import Iterable

from tintype.diagnosis.facts import Facts, Rule
from tintype.diagnosis.measures import in_words
from tintype.diagnosis.progress import (
    has_not_learnt,
    learnt_nothing,
    lost_between_modes,
    majority,
    training_accuracy,
    weight_layers,
)
from tintype.records import Finding, InputHealth, LayerHealth

LARGE_INPUT = 10.0
"""Mean or deviation from which on inputs are too large. Standardised images have mean 0 and deviation 1, images in
0..1 a deviation of some 0.3; images in 0..255 have 30 to 90. A factor of 10 to the one side, of 3 to the other."""

FLAT_INPUT = 0.02
"""Deviation below which inputs are too flat: images of 0..1 divided by 255 once more have about 0.001, and very pale
images in 0..1 still 0.05."""

INPUT_SHIFT = 0.5
"""Difference of the input's means in the two modes, in deviations, from which on it is not noise. Dropout and noise on
the images leave the mean where it is."""

INPUT_STRETCH = 2.0
"""Factor between the input's deviations in the two modes. Dropout of half the pixels makes it 1.4."""

MEAN_GAP = 1.0
"""Median distance of a batch's means from the running means, in running deviations. Batches of 8 images and more keep
below 0.4 in healthy networks; a whole deviation changes the sign of the half of what a ReLU sees."""

DEVIATION_FACTOR = 3.0
"""Median factor between a batch's and the running deviations; between 0.7 and 1.4 in healthy networks."""

DEAD_SHARE = 0.95
"""Share of a layer's channels that say the same of every image. A third is common in sound networks, and half not rare;
where a twentieth is left, a layer passes on nothing to learn from."""

FROZEN_SHARE = 0.5
"""Share of the weights that are frozen as they were drawn, from which on they may be what keeps a network from
learning."""

_MOST_LAYERS = 6


def not_finite(facts: Facts) -> Finding | None:
    """Why a loss was not finite, as found when it happened; a run that went on to its end has mended it."""
    if facts.predictions:
        return None
    return next((finding for finding in facts.findings if finding.code.startswith("non-finite")), None)


def input_scale(facts: Facts) -> Finding | None:
    """Inputs in 0..255, or a 255th of 0..1: a scale that no network's first weights are made for.

    A network that begins with a normalisation is fit for every scale, and is left alone.
    """
    if facts.health is None or "Norm" in facts.health.inference_input.kind:
        return None
    reaching = facts.health.inference_input
    large = max(abs(reaching.mean), reaching.deviation) > LARGE_INPUT
    if not large and reaching.deviation >= FLAT_INPUT:
        return None
    reached = training_accuracy(facts)
    scale = (
        "as for images in 0..255, where a network wants 0..1 or mean 0 and deviation 1"
        if large
        else "hardly anything of the images is left, as where 0..1 is divided by 255 once more"
    )
    return Finding(
        "input-scale",
        "critical" if has_not_learnt(facts) else "warning",
        f"what reaches the network's first layer has mean {reaching.mean:.4g} and deviation {reaching.deviation:.3g}: "
        f"{scale}",
        (
            f"the first layer with weights, {reaching.kind}, is given values from {reaching.low:.4g} to "
            f"{reaching.high:.4g}",
            f"standardize = {facts.config.model.standardize}",
            *([f"training images right: {in_words(reached)}"] if reached is not None else []),
        ),
        "Images come as 0..1, with their mean taken away and divided by their deviation unless standardize is none. "
        "Use --set model.standardize=channel, and leave rescaling out of a network of your own; weights from elsewhere "
        "need the mean and deviation they were trained with, in 0..1 (`tintype import --mean --std`).",
    )


def input_differs(facts: Facts) -> Finding | None:
    """Preprocessing that is not the same in training and in evaluation."""
    if facts.health is None:
        return None
    training, inference = facts.health.training_input, facts.health.inference_input
    spread = max(training.deviation, inference.deviation)
    if spread == 0:
        return None
    shift = abs(training.mean - inference.mean) / spread
    stretch = spread / max(min(training.deviation, inference.deviation), 1e-6 * spread)
    if shift < INPUT_SHIFT and stretch < INPUT_STRETCH:
        return None
    lost = lost_between_modes(facts)
    return Finding(
        "input-differs",
        "critical" if lost else "warning",
        f"the same images reach the network's first layer otherwise in training, {_figures(training)}, than in "
        f"evaluation, {_figures(inference)}",
        tuple(line for line in (lost, f"the first layer with weights is {inference.kind}") if line),
        "What is done to the images before the first layer depends on the mode, as with `if self.training:` in a "
        "forward of your own. Do the same in both modes, or leave it to --set model.standardize=channel.",
    )


def frozen_batch_statistics(facts: Facts) -> Finding | None:
    """BatchNorm layers that are frozen and still take the statistics of each batch while the network trains."""
    layers = [layer for layer in _layers(facts) if layer.batch_statistics and not layer.trains]
    if not layers:
        return None
    lost = lost_between_modes(facts)
    effect = "" if lost else ", though that did no harm that could be seen here"
    return Finding(
        "frozen-batch-statistics",
        "critical" if lost else "warning",
        f"{_counted(layers, 'frozen BatchNorm layer')} used the statistics of each batch in training and the running "
        f"ones in evaluation{effect}",
        (*([lost] if lost else []), *(_statistics(layer) for layer in _worst(layers))),
        "Frozen normalisation must run in inference mode while the rest trains: call .eval() on the frozen part in "
        "your module's train(), or give the network as --backbone with --freeze, which does it.",
    )


def running_statistics(facts: Facts) -> Finding | None:
    """BatchNorm whose running statistics are not those of the data, so that evaluation sees other values."""
    layers = [layer for layer in _layers(facts) if _is_far_off(layer)]
    lost = lost_between_modes(facts)
    stuck = [layer for layer in layers if not layer.batch_statistics]
    if not layers or not (lost or (stuck and learnt_nothing(facts))):
        return None
    reached = training_accuracy(facts)
    evaluated = f"; {in_words(reached)} are right, {majority(facts):.3f} by always the largest class" if reached else ""
    return Finding(
        "running-statistics",
        "critical",
        f"the running statistics of {_counted(layers, 'BatchNorm layer')} are far from those of the training images, "
        f"and evaluation uses them{evaluated}",
        (*([lost] if lost else []), *(_statistics(layer) for layer in _worst(layers))),
        "They are averaged over the training steps: train longer (--epochs), or with a larger momentum of the "
        "BatchNorm. If they came with weights, these want other images: check mean and deviation (`tintype import "
        "--mean --std`), or let the layers train with --freeze none.",
    )


def modes_differ(facts: Facts) -> Finding | None:
    """A network that is right in training and wrong in evaluation, for a reason that none of the other rules sees."""
    lost = lost_between_modes(facts)
    if not lost:
        return None
    health = facts.health
    losses = (
        f"loss {health.training_loss:.4g} in training mode, {health.inference_loss:.4g} in inference mode"
        if health is not None
        else "nobody looked inside the network"
    )
    return Finding(
        "modes-differ",
        "critical",
        f"the network does something else in evaluation than in training: {lost}",
        (losses, *(_statistics(layer) for layer in _worst(layer for layer in _layers(facts) if _is_norm(layer)))),
        "Something in it depends on the mode: a branch on self.training, a dropout that scales wrongly, a "
        "normalisation. Do the same in both modes; --model with a network of the zoo shows whether it is the network.",
    )


def frozen_untrained(facts: Facts) -> Finding | None:
    """A frozen part that nobody trained: random weights stay random, and the rest cannot make up for it."""
    model = facts.config.model
    random_backbone = model.backbone is not None and model.weights == "none"
    frozen_backbone = model.freeze not in (None, "none", 0) or model.depth not in (None, "all")
    layers = weight_layers(facts)
    everything = sum(layer.parameters for layer in layers)
    frozen = [layer for layer in layers if not layer.trains and not layer.loaded]
    share = sum(layer.parameters for layer in frozen) / everything if everything else 0.0
    of_own = model.backbone is None and (share >= FROZEN_SHARE or len(frozen) > FROZEN_SHARE * len(layers))
    if not (random_backbone and frozen_backbone) and not (of_own and has_not_learnt(facts)):
        return None
    reached = training_accuracy(facts)
    names = ", ".join(layer.name for layer in frozen[:_MOST_LAYERS]) + (" ..." if len(frozen) > _MOST_LAYERS else "")
    what = (
        f"the backbone {model.backbone} has random weights and is frozen"
        if random_backbone
        else f"{share:.0%} of the weights do not train, and what trains cannot tell the training images apart"
    )
    return Finding(
        "frozen-untrained",
        "critical" if has_not_learnt(facts) else "warning",
        what + (f": {in_words(reached)} right" if reached is not None else ""),
        tuple(
            line
            for line in (
                f"frozen: {names}" if frozen else "",
                f"freeze = {model.freeze}, depth = {model.depth}, weights = {model.weights}",
                f"always naming the largest class: {majority(facts):.3f}",
            )
            if line
        ),
        "Let it train, --freeze none (or --depth all; in a module of your own, requires_grad_(True)), or start from "
        "pretrained weights, --weights auto.",
    )


def dead_units(facts: Facts) -> Finding | None:
    """A layer that says the same of every image, so that nothing behind it can learn and no gradient passes it."""
    if not has_not_learnt(facts):
        return None
    dead = next((layer for layer in _layers(facts) if layer.dead is not None and layer.dead >= DEAD_SHARE), None)
    if dead is None:
        return None
    layers = _layers(facts)
    before = [layer for layer in layers[: layers.index(dead) + 1] if layer.gradient is not None]
    gradient = max((layer.gradient for layer in before if layer.gradient is not None), default=None)
    reached = training_accuracy(facts)
    assert dead.dead is not None
    assert reached is not None
    return Finding(
        "dead-units",
        "critical",
        f"layer {dead.name} ({dead.kind}) is dead: {dead.dead:.0%} of its channels say the same of every image, and "
        f"training stands still at {in_words(reached)}",
        (
            *([f"largest gradient up to it: {gradient:.2g} of the weights' norm"] if gradient is not None else []),
            *(
                f"{layer.name} ({layer.kind}): {layer.dead:.0%} of the channels are the same for every image"
                for layer in layers
                if layer.dead is not None and layer.dead > FROZEN_SHARE
            ),
        )[:_MOST_LAYERS],
        "Units behind a ReLU die by a step that is too large or by a start far below 0. Use a lower --learning-rate, a "
        "bn layer before the activation, or leaky_relu or gelu in place of relu.",
    )


def _layers(facts: Facts) -> tuple[LayerHealth, ...]:
    return facts.health.layers if facts.health is not None else ()


def _is_norm(layer: LayerHealth) -> bool:
    return layer.mean_gap is not None


def _is_far_off(layer: LayerHealth) -> bool:
    if layer.mean_gap is None or layer.deviation_ratio is None:
        return False
    ratio = max(layer.deviation_ratio, 1 / max(layer.deviation_ratio, 1e-12))
    return layer.mean_gap > MEAN_GAP or ratio > DEVIATION_FACTOR


def _worst(layers: Iterable[LayerHealth]) -> list[LayerHealth]:
    return sorted(layers, key=lambda layer: -(layer.mean_gap or 0.0))[:_MOST_LAYERS]


def _statistics(layer: LayerHealth) -> str:
    if layer.mean_gap is None or layer.deviation_ratio is None:
        return f"{layer.name}: keeps no running statistics"
    return (
        f"{layer.name}: the images' means lie {layer.mean_gap:.2f} running deviations off, their deviations are "
        f"{layer.deviation_ratio:.3g} times the running ones (median of the channels)"
    )


def _figures(reaching: InputHealth) -> str:
    return f"mean {reaching.mean:.3g} and deviation {reaching.deviation:.3g}"


def _counted(layers: list[LayerHealth], what: str) -> str:
    return f"1 {what} ({layers[0].name})" if len(layers) == 1 else f"{len(layers)} {what}s"


RULES: tuple[Rule, ...] = (
    not_finite,
    input_scale,
    input_differs,
    frozen_batch_statistics,
    running_statistics,
    modes_differ,
    frozen_untrained,
    dead_units,
)
"""Root causes first."""

_MODES = ("running-statistics", "modes-differ")
_NOT_LEARNT = (
    "dead-units", "frozen-untrained", "few-steps", "learning-rate-low", "learning-rate-high", "underfitting",
    "labels-do-not-fit", "class-imbalance", "no-better-than-majority", "hardly-better-than-shortcut",
)  # fmt: skip
EXPLAINS: dict[str, tuple[str, ...]] = {
    "input-scale": (*_MODES, *_NOT_LEARNT),
    "input-differs": ("frozen-batch-statistics", *_MODES, *_NOT_LEARNT),
    "frozen-batch-statistics": (*_MODES, *_NOT_LEARNT),
    "running-statistics": ("modes-differ", *_NOT_LEARNT),
    "modes-differ": _NOT_LEARNT,
    "frozen-untrained": tuple(code for code in _NOT_LEARNT if code != "frozen-untrained"),
    "dead-units": tuple(
        code for code in _NOT_LEARNT if code not in ("dead-units", "frozen-untrained", "learning-rate-high")
    ),
}
"""Codes of findings to codes of what follows from them."""
