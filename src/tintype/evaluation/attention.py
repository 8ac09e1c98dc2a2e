"""Where a network looks: which places of an image speak for a class.

The map of a class is the last activations that still have places, times the gradient of the class' logit in them,
summed over the channels; places that speak against the class count as zero. That is HiResCAM (R. L. Draelos and
L. Carin, "Use HiResCAM instead of Grad-CAM for faithful explanations of convolutional neural networks",
arXiv:2011.08891, 2020). Behind global average pooling and a linear layer it is the class activation map (B. Zhou and
others, "Learning deep features for discriminative localization", CVPR 2016) and Grad-CAM (R. R. Selvaraju and others,
ICCV 2017), all three the same. Where dense layers follow a flattened map, Grad-CAM averages the gradients over the
places and so lights up places that those layers ignore; this shows what they use.

For a transformer the places are its patches. Where only the class token is read in the end, the last activations whose
patches still matter are what the last attention takes in.

The activations are those that enter or leave a module. What a network adds up between modules is seen as soon as it
enters the next one, so only a network that ends in such a sum, followed by no module, shows the last summand alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tintype.models.network import Network, OutputKind

Layout = Literal["NCHW", "NHWC", "tokens"]

_MOST_TRIED = 40  # a class token is read ten operations behind the last attention
_MOST_EXTRA_TOKENS = 9  # a class token, one for distillation, up to eight registers
_CONTAINERS = (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict)
_NO_PLACES = "no layer of this network keeps places of the image apart, so there is no map to show"
_NO_GRADIENT = "this network's code switches gradients off, so there is no map to show"


@dataclass(frozen=True)
class MapPlace:
    """Where in a network the last activations with places are.

    Attributes:
        module: The module's name inside the network.
        call: Which of the module's calls in one forward pass, from 0.
        side: Whether they enter the module or leave it.
        layout: Their axes; ``tokens`` are (N, T, C), the patches last.
    """

    module: str
    call: int
    side: Literal["input", "output"]
    layout: Layout


@dataclass(frozen=True)
class NoMap:
    """There is no map of a network, and why."""

    reason: str


@dataclass(frozen=True)
class _Seen:
    place: MapPlace
    values: Tensor


def attention_maps(
    network: Network, images_NCHW: Tensor, classes_N: NDArray[np.int64], place: MapPlace | None = None
) -> NDArray[np.float32] | NoMap:
    """How much each place of each image speaks for a class.

    One forward pass, and one backward pass from the last map on; nothing before it takes part in the latter. The
    network's modes, parameters, gradients and statistics stay as they are.

    Args:
        network: Any; it is run in inference mode.
        images_NCHW: uint8 or float of 0..255, on the network's device, at least one.
        classes_N: The class that is asked about for each image, most often the predicted one.
        place: From :func:`find_place`, which is asked otherwise.

    Returns:
        Maps of shape (N, h, w), each with its largest value 1; all 0 where no place speaks for the class. Or why there
        are none.
    """
    where = place or find_place(network, images_NCHW[0])
    if isinstance(where, NoMap):
        return where
    maps_Nhw = class_maps(network, images_NCHW, torch.from_numpy(classes_N).to(images_NCHW.device), where)
    if isinstance(maps_Nhw, NoMap):
        return maps_Nhw
    return np.asarray(maps_Nhw.cpu().numpy(), dtype=np.float32)


def class_maps(network: Network, images_NCHW: Tensor, classes_N: Tensor, place: MapPlace) -> Tensor | NoMap:
    """:func:`attention_maps` of a place that is known, from tensors to a tensor, so that it can be traced."""
    caught: list[Tensor] = []

    def catch(tensor: Tensor) -> Tensor:
        # A leaf must not be changed in place, as the activation behind it may do: so that gets a copy.
        caught.append(tensor.detach().clone().requires_grad_())
        torch.set_grad_enabled(True)
        return caught[-1].clone()

    with _in_inference(network), torch.no_grad(), _replacing(network, place, catch):
        # Cloned, since tensors of a caller in inference mode take part in no gradient.
        score = _class_scores(network(images_NCHW), network.output, classes_N.clone()).sum()
        if not score.requires_grad:
            return NoMap(_NO_GRADIENT)
        (gradient,) = torch.autograd.grad(score, caught)
    return _scaled(_over_channels(caught[0].detach(), gradient, place.layout))


def find_place(network: Network, image_CHW: Tensor) -> MapPlace | NoMap:
    """The last activations with places that the output depends on, found by running one image.

    Args:
        network: Any; it is left as it is.
        image_CHW: uint8 or float of 0..255, on the network's device.
    """
    with _in_inference(network), torch.enable_grad():
        # Two copies: what cuts an image into windows, as a longer batch, is told from what keeps images apart.
        images_NCHW = torch.stack([image_CHW, image_CHW]).float().requires_grad_()
        with _watching(network, image_CHW.shape[-1]) as seen:
            logits_NK = network(images_NCHW)
        if not logits_NK.requires_grad:
            return NoMap(_NO_GRADIENT)
        best = logits_NK.detach().argmax(dim=1) if logits_NK.shape[1] > 1 else (logits_NK.detach()[:, 0] > 0).long()
        score = _class_scores(logits_NK, network.output, best).sum()
        for item in reversed(seen[-_MOST_TRIED:]):
            if not item.values.requires_grad:
                continue
            (gradient,) = torch.autograd.grad(score, item.values, retain_graph=True, allow_unused=True)
            if gradient is not None and bool(_at_places(gradient, item.place.layout).any()):
                return item.place
    return seen[-1].place if seen else NoMap(_NO_PLACES)


@contextmanager
def _in_inference(network: nn.Module) -> Iterator[None]:
    """Inference mode of all modules, each put back afterwards; gradients can be taken also if the caller forbade it."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        with torch.inference_mode(False):
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def _watching(network: nn.Module, image_side: int) -> Iterator[list[_Seen]]:
    """Collect, in the order of running, what enters and leaves the modules and has places.

    What enters before the first layer with weights has run is the image itself, in which no place was looked at yet.
    """
    seen: list[_Seen] = []
    calls: Counter[str] = Counter()
    weighed: list[str] = []

    def note(name: str, side: Literal["input", "output"], values: Tensor) -> bool:
        layout = _layout(values.shape, image_side) if weighed else None
        if layout is not None:
            seen.append(_Seen(MapPlace(name, calls[name], side, layout), values))
        return layout is not None

    def watch(name: str, module: nn.Module) -> None:
        has_weights = any(True for _ in module.parameters())

        def before(_module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...] | None:
            if not given or not isinstance(given[0], Tensor):
                return None
            # A view, so that its gradient is that of this use alone: a residual goes around the module.
            values = given[0].view_as(given[0])
            return (values, *given[1:]) if note(name, "input", values) else None

        def after(_module: nn.Module, _given: tuple[Any, ...], result: Any) -> None:
            if has_weights:
                weighed.append(name)
            if isinstance(result, Tensor):
                note(name, "output", result)
            calls[name] += 1

        handles.extend((module.register_forward_pre_hook(before), module.register_forward_hook(after)))

    handles: list[torch.utils.hooks.RemovableHandle] = []
    try:
        for name, module in _open_modules(network):
            watch(name, module)
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _replacing(network: nn.Module, place: MapPlace, replace: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Put other activations in the place of those that pass it."""
    call = -1

    def before(_module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...] | None:
        nonlocal call
        call += 1
        return (replace(given[0]), *given[1:]) if place.side == "input" and call == place.call else None

    def after(_module: nn.Module, _given: tuple[Any, ...], result: Any) -> Any:
        return replace(result) if place.side == "output" and call == place.call else None

    module = network.get_submodule(place.module)
    handles = (module.register_forward_pre_hook(before), module.register_forward_hook(after))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _open_modules(module: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Modules by name, but nothing inside the layers of PyTorch and timm and inside attention.

    In there maps are cut into windows and heads, whose axes look like those of a map and are none.
    """
    yield name, module
    kind = type(module)
    is_layer = kind.__module__.startswith(("torch.nn", "timm.layers")) and kind not in _CONTAINERS
    if not is_layer and "attention" not in kind.__name__.lower():
        for child_name, child in module.named_children():
            yield from _open_modules(child, f"{name}.{child_name}".lstrip("."))


def _layout(shape: torch.Size, image_side: int) -> Layout | None:
    """The axes of activations of two images, None where they have no places."""
    if shape[0] != 2:
        return None
    if len(shape) == 4:
        _, first, second, third = shape
        if first == second > 1 and second != third:
            return "NHWC"
        return "NCHW" if second > 1 and third > 1 else None
    if len(shape) == 3 and (grid := _grid(shape[1])) > 1 and image_side % grid == 0:
        return "tokens"
    return None


def _grid(tokens: int) -> int:
    """Patches along a side when the tokens are a square of patches behind a few others; 0 where they are not."""
    sides = (round((tokens - extra) ** 0.5) for extra in range(min(_MOST_EXTRA_TOKENS + 1, tokens)))
    return next((side for extra, side in enumerate(sides) if side * side == tokens - extra), 0)


def _at_places(values: Tensor, layout: Layout) -> Tensor:
    """Values as (N, h, w, C), without the tokens that stand for no place."""
    if layout == "tokens":
        grid = _grid(values.shape[1])
        return values[:, -grid * grid :].reshape(len(values), grid, grid, -1)
    return values.permute(0, 2, 3, 1) if layout == "NCHW" else values


def _over_channels(values: Tensor, gradient: Tensor, layout: Layout) -> Tensor:
    """What each place adds to the class' logit, to first order, shape (N, h, w); never below 0."""
    return _at_places(values.float() * gradient.float(), layout).sum(dim=3).clamp(min=0)


def _class_scores(logits_NK: Tensor, output: OutputKind, classes_N: Tensor) -> Tensor:
    """The logit of each image's class, shape (N,); a sigmoid unit's logit speaks for the second of two classes."""
    if output == "sigmoid":
        return logits_NK[:, 0] * (2 * classes_N - 1)
    return logits_NK.gather(1, classes_N[:, None])[:, 0]


def _scaled(maps_Nhw: Tensor) -> Tensor:
    maps_Nhw = torch.nan_to_num(maps_Nhw)
    most_N11 = maps_Nhw.amax(dim=(1, 2), keepdim=True)
    return maps_Nhw / torch.where(most_N11 > 0, most_N11, 1.0)
