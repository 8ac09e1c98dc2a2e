"""Networks from scratch among which a search looks: plain and residual ones, in the layer language."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tintype.models import zoo
from tintype.models.layers import build_layers, parse_layers
from tintype.tuning.space import Images

if TYPE_CHECKING:
    import optuna

Family = Literal["plain", "residual"]
Norm = Literal["bn", "none"]
Pooling = Literal["stride", "max", "avg"]
Head = Literal["gap", "gmp", "flatten"]

MOST_PARAMETERS = 30_000_000
"""More than AlexNet's 22 million for 32 px; what AdamW keeps for so many takes half a gigabyte."""

MOST_WORK = 8.0
"""Multiply-adds for an image as a multiple of those of tintype's default network, which passes over the images often
enough in minutes on two cores. A ResNet-18 for CIFAR-10 has nine times as many (556 against 62 million at 32 px)."""

HALVED_FROM = 6
"""Sides from which a map is halved, so that none gets below 3 pixels."""

FILTERS_STEP = 8
"""Filters come in multiples of it, as CPUs and GPUs have their arithmetic."""

MOST_FILTERS = 512

_PREFIX = "network."
_WIDTHS = (16, 96)
_START_SIDE = {1: 20, 3: 48}
"""By channels: the first stage of a starting network sees maps of fewer pixels a side than this, where a reduction to a
quarter suffices, as the default's does (:func:`tintype.models.zoo.default_layers`)."""


@dataclass(frozen=True)
class Architecture:
    """A network without its output layer: a stem, stages between which the map is halved, and a head.

    Attributes:
        family: ``plain``: convolutions one behind another; ``residual``: blocks of two with a shortcut.
        stem: Filters of the first convolution.
        stem_kernel: Its kernel size.
        reduction: How much smaller than the image the maps of the first stage are: 1, 2 or 4. At 2 a plain network has
            a stem of stride 2, and a residual one halves in its first block; at 4 both do both.
        widths: Filters of each stage.
        blocks: Convolutions, or residual blocks, in each stage.
        kernel: Kernel size of a plain network's convolutions; residual blocks have 3.
        norm: Batch normalisation behind each convolution of a plain network, or none; residual blocks have it.
        pooling: How a map is halved: by the stride of a stage's first convolution, or by a pool before it.
        head: How the last map becomes a vector.
        dense: Units of a hidden layer before the output; 0: none.
        dropout: Share dropped before the output.
    """

    family: Family
    stem: int
    stem_kernel: int
    reduction: int
    widths: tuple[int, ...]
    blocks: int
    kernel: int = 3
    norm: Norm = "bn"
    pooling: Pooling = "stride"
    head: Head = "gap"
    dense: int = 0
    dropout: float = 0.0

    def layers(self, image_size: int) -> str:
        """The network as text in the layer language.

        It is meant for images of that size and builds for any: a map that is too small to be halved is not.

        Args:
            image_size: Side of the square images in pixels.
        """
        side = image_size
        stem_halves = side >= HALVED_FROM and self.reduction >= (2 if self.family == "plain" else 4)
        first_halves = self.reduction >= (4 if self.family == "plain" else 2)
        lines = self._convolution(self.stem, self.stem_kernel, 2 if stem_halves else 1)
        side = -(-side // 2) if stem_halves else side
        for number, filters in enumerate(self.widths):
            halves = side >= HALVED_FROM and (number > 0 or first_halves)
            lines += self._stage(filters, halves)
            side = -(-side // 2) if halves else side
        lines.append(self.head)
        if self.dense:
            lines.append(f"dense {self.dense} relu")
        if self.dropout:
            lines.append(f"dropout {self.dropout:g}")
        return "".join(f"{line}\n" for line in lines)

    def narrower(self) -> Architecture:
        """The same with about three quarters of the filters and dense units; itself where there are only 8 left."""

        def fewer(count: int) -> int:
            return max(FILTERS_STEP, int(0.75 * count) // FILTERS_STEP * FILTERS_STEP)

        widths = tuple(fewer(width) for width in self.widths)
        return replace(self, stem=fewer(self.stem), widths=widths, dense=fewer(self.dense) if self.dense else 0)

    def _stage(self, filters: int, halves: bool) -> list[str]:
        pools = {"max": ["pool 2"], "avg": ["avgpool 2"], "stride": []}[self.pooling] if halves else []
        stride = 2 if halves and not pools else 1
        if self.family == "residual":
            repeat = f" repeat={self.blocks}" if self.blocks > 1 else ""
            return [*pools, f"residual {filters}" + (" stride=2" if stride == 2 else "") + repeat]
        lines = pools + self._convolution(filters, self.kernel, stride)
        for _ in range(self.blocks - 1):
            lines += self._convolution(filters, self.kernel, 1)
        return lines

    def _convolution(self, filters: int, kernel: int, stride: int) -> list[str]:
        text = f"conv {filters} {kernel}" + (" stride=2" if stride == 2 else "")
        # A shift of its own would be taken away again by the normalisation's mean.
        return [f"{text} relu"] if self.norm == "none" else [f"{text} bias=no", "bn", "relu"]


@dataclass(frozen=True)
class Cost:
    """What a network takes.

    Attributes:
        parameters: Without the output layer's.
        work: Multiply-adds of its convolutions and dense layers for one image, forwards.
    """

    parameters: int
    work: int


@lru_cache(maxsize=1024)
def cost_of(layers: str, shape: tuple[int, int, int]) -> Cost:
    """Parameters and multiply-adds of a network, counted without allocating any weight.

    Args:
        layers: Its text.
        shape: (channels, height, width) of the images.

    Raises:
        LayerError: A layer does not fit.
    """
    with torch.device("meta"):
        network = build_layers(parse_layers(layers), shape).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            # It counts for nothing, and without values it takes four fifths of the time: 59 against 11 ms.
            module.forward = _unchanged  # type: ignore[method-assign]
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network(torch.empty(1, *shape, device="meta"))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Cost(parameters, counter.get_total_flops() // 2)


def _unchanged(input: Tensor) -> Tensor:
    return input


def within_limits(architecture: Architecture, images: Images) -> Architecture:
    """The widest form of an architecture that has at most :data:`MOST_PARAMETERS` and :data:`MOST_WORK`."""
    # A default for many images: few images ask for a small network, but forbid no larger one.
    default = cost_of(zoo.default_layers(images.size, images.channels, 10_000, images.classes), images.shape)
    while True:
        cost = cost_of(architecture.layers(images.size), images.shape)
        if cost.parameters <= MOST_PARAMETERS and cost.work <= MOST_WORK * default.work:
            return architecture
        narrower = architecture.narrower()
        assert narrower != architecture, "the narrowest form of an architecture is within the limits"
        architecture = narrower


def suggest_architecture(trial: optuna.Trial, images: Images) -> Architecture:
    """Draw an architecture for these images; one that would be too large is made narrower.

    Args:
        trial: Asked for parameters whose names begin with ``network.``.
        images: What it is to classify.
    """

    def choice(name: str, *values: Any) -> Any:
        return trial.suggest_categorical(_PREFIX + name, values)

    family: Family = choice("family", "residual", "plain")
    plain = family == "plain"
    reduction: int = choice("reduction", *_reductions(images.size))
    width = _multiple(trial.suggest_int(_PREFIX + "width", *_WIDTHS, log=True))
    growth = trial.suggest_float(_PREFIX + "growth", 1.25, 2.0, step=0.25)
    stages = trial.suggest_int(_PREFIX + "stages", 2, _most_stages(images.size))
    kernel: int = choice("kernel", 3, 5) if plain else 3
    strided_stem = plain and reduction > 1
    stem = width // 2 if strided_stem else width if plain else width * 3 // 4
    return within_limits(
        Architecture(
            family=family,
            stem=_multiple(stem),
            # A stem that skips every other pixel must at least have seen it.
            stem_kernel=5 if strided_stem else kernel,
            reduction=reduction,
            widths=tuple(min(MOST_FILTERS, _multiple(width * growth**stage)) for stage in range(stages)),
            blocks=trial.suggest_int(_PREFIX + "blocks", 1, 3),
            kernel=kernel,
            norm=choice("norm", "bn", "none") if plain else "bn",
            pooling=choice("pooling", "stride", "max", "avg"),
            head=choice("head", "gap", "gmp", "flatten"),
            dense=choice("dense", 0, 64, 256),
            dropout=trial.suggest_float(_PREFIX + "dropout", 0.0, 0.5, step=0.1),
        ),
        images,
    )


def starting_parameters(images: Images) -> tuple[Mapping[str, Any], ...]:
    """Parameters of networks to begin with: one close to tintype's default, others by what is likely to be better.

    The default's, wider and deeper, one of the other family, and a VGG-like one.

    Args:
        images: What they are to classify.
    """
    small_grey = images.channels == 1 and images.size <= 40
    few = images.training < 1_000 and images.classes <= 10
    reductions = _reductions(images.size)
    limit = _START_SIDE[1 if small_grey else 3]
    reduction = next((factor for factor in reductions if images.size < limit * factor), reductions[-1])
    shared = {"head": "gap", "dense": 0, "dropout": 0.0, "width": 16 if few and not small_grey else 32}
    residual = shared | {
        "family": "residual", "reduction": reduction, "growth": 2.0, "stages": min(4, _most_stages(images.size)),
        "blocks": 1, "pooling": "stride",
    }  # fmt: skip
    plain = shared | {
        "family": "plain", "reduction": reduction, "growth": 1.75, "stages": 3, "blocks": 1, "kernel": 3, "norm": "bn",
        "pooling": "max", "head": "gmp",
    }  # fmt: skip
    vgg = plain | {"growth": 2.0, "blocks": 2, "head": "flatten", "dense": 256, "dropout": 0.5}
    default, other = (plain, residual) if small_grey else (residual, plain)
    wider = default | {"width": 24 if few and not small_grey else 48}
    chosen = (default, wider, default | {"blocks": 2, "dropout": 0.2}, other, vgg)
    return tuple({_PREFIX + name: value for name, value in parameters.items()} for parameters in chosen)


def _reductions(size: int) -> tuple[int, ...]:
    """Reductions with which the first stage sees maps of 10 to 48 pixels a side, or as near as they come."""
    fitting = [factor for factor in (1, 2, 4) if 10 * factor <= size <= 48 * factor]
    return tuple(fitting) or ((1,) if size < 10 else (4,))


def _most_stages(size: int) -> int:
    return 3 if size < 20 else 4 if size < 96 else 5


def _multiple(filters: float) -> int:
    return max(FILTERS_STEP, round(filters / FILTERS_STEP) * FILTERS_STEP)
