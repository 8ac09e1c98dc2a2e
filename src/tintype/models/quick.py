"""Layers whose BatchNorm keeps its statistics, trained on a CPU in fewer passes over memory.

PyTorch runs convolution, normalisation and activation one after the other, forwards and backwards, each over the
whole map. Where the statistics stay, the normalisation is a scale and a shift: here they are multiplied into the
convolution's weights (so that their gradients come out of the weights' gradients), and oneDNN applies the activation.
What trains, its names and its values stay the same; only the order of roundings differs.

The gradients of a strided depthwise convolution are computed as those of one without strides, whose result's gradient
has zeros in between: oneDNN takes 167 ms for the input's where 64 maps of 96 channels shrink from 64 to 32 px (bf16,
torch 2.15, two Intel cores with AMX, 2026-11-22), and 4 ms without strides for 32 channels of 64 px.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, fx, nn

from tintype.models.chains import Chain, Geometry, find_chain
from tintype.models.fused import Attributes, attributes, can_fuse

_Gradient = Callable[[Tensor, Tensor], Tensor]

_GRADIENTS: dict[str, _Gradient] = {
    "none": lambda gradient, _: gradient,
    "relu": lambda gradient, result: torch.ops.aten.threshold_backward(gradient, result, 0),
    "hardtanh": lambda gradient, result: torch.ops.aten.hardtanh_backward(gradient, result, 0, 6),  # of ReLU6
}
"""Of activations, in oneDNN's words: only those whose gradient the result tells."""


class QuickTraining:
    """The parts of a network that are graphs, made to train quickly, until :meth:`undo`.

    Args:
        network: Changed in place, and put into training mode, by which it is seen which normalisations keep their
            statistics. Its parameters and their names stay, but its layers are not called one by one: hooks on them
            see nothing.
        device: Where it trains; on others than a CPU nothing changes.
    """

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        network.train()
        graphs = [part for part in network.modules() if isinstance(part, fx.GraphModule)] if can_fuse(device) else []
        self._before = [(part, part.graph) for part in graphs]
        for part in graphs:
            part.graph = _quick_graph(part)

    def undo(self) -> None:
        """Let the layers run one by one again."""
        for part, graph in self._before:
            part.graph = graph
        self._before = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.undo()


def _quick_graph(graph_module: fx.GraphModule) -> fx.Graph:
    """The same graph with chains as one operation each; the module's own is left as it is."""
    graph = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    output = graph.graph_copy(graph_module.graph, copied)
    graph.output(output)
    for node in graph_module.graph.nodes:
        chain = find_chain(graph_module, node, _has_gradient, _keeps_statistics)
        if chain is not None and (chain.bn is not None or _is_strided_depthwise(chain.conv)):
            left = copied[chain.left] if chain.left is not None else None
            _replace(graph, chain, [copied[part] for part in chain.nodes], left)
    graph.lint()
    return graph


def _has_gradient(activation: nn.Module) -> bool:
    known = attributes(activation)
    return known is not None and known[0] in _GRADIENTS


def _keeps_statistics(bn: nn.BatchNorm2d) -> bool:
    drops = getattr(bn, "drop", None)  # as timm's may, before the activation
    return not bn.training and isinstance(drops, nn.Identity | None)


def _is_strided_depthwise(conv: nn.Conv2d) -> bool:
    return conv.groups == conv.in_channels == conv.out_channels and max(conv.stride) > 1


def _replace(graph: fx.Graph, chain: Chain, nodes: list[fx.Node], left: fx.Node | None) -> None:
    conv, bn = str(chain.nodes[0].target), chain.bn
    activation = attributes(chain.activation or nn.Identity())
    with graph.inserting_before(nodes[0]):
        weight = graph.get_attr(f"{conv}.weight")
        bias = graph.get_attr(f"{conv}.bias") if chain.conv.bias is not None else None
        if bn is not None:
            name = str((chain.left or chain.nodes[1]).target)
            parts = ("weight", "bias", "running_mean", "running_var")
            held = [graph.get_attr(f"{name}.{part}") if getattr(bn, part) is not None else None for part in parts]
            pair = graph.call_function(folded, (weight, bias, *held, bn.eps))
            weight, bias = (graph.call_function(operator.getitem, (pair, number)) for number in (0, 1))
        new = graph.call_function(convolved, (nodes[0].args[0], weight, bias, Geometry.of(chain.conv), activation))
    nodes[-1].replace_all_uses_with(new)
    for done in reversed(nodes):
        graph.erase_node(done)
    if left is not None:
        with graph.inserting_after(left):
            own = graph.call_module(f"{left.target}.act", (new,))
        left.replace_all_uses_with(own)
        graph.erase_node(left)


def folded(
    weight: Tensor, bias: Tensor | None, scale_C: Tensor | None, shift_C: Tensor | None, mean_C: Tensor,
    variance_C: Tensor, eps: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Weights and bias of the convolution that does a normalisation's scaling and shifting as well, fp32."""
    factor_C = torch.rsqrt(variance_C + eps)
    factor_C = factor_C if scale_C is None else factor_C * scale_C
    offset_C = -mean_C if bias is None else bias - mean_C
    offset_C = offset_C * factor_C
    return weight * factor_C[:, None, None, None], offset_C if shift_C is None else offset_C + shift_C


def convolved(
    maps_NCHW: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, activation: Attributes
) -> Tensor:
    """A convolution with its activation, in bf16 under autocast and else in the maps' type."""
    is_autocast = torch.is_autocast_enabled("cpu")
    dtype = torch.get_autocast_dtype("cpu") if is_autocast else maps_NCHW.dtype
    bias = torch.zeros(len(weight), dtype=dtype) if bias is None else bias.to(dtype)
    kernel = geometry.kernel(weight).to(dtype).contiguous(memory_format=torch.channels_last)
    result: Tensor = _Convolved.apply(maps_NCHW.to(dtype), kernel, bias, geometry, activation)
    return result


class _Convolved(torch.autograd.Function):
    """The operation with its gradients."""

    @staticmethod
    def forward(
        ctx: Any, maps: Tensor, kernel: Tensor, bias: Tensor, geometry: Geometry, activation: Attributes
    ) -> Tensor:
        padding = geometry.padding_of(kernel.shape[2:], maps.shape[2:])
        result: Tensor = torch.ops.mkldnn._convolution_pointwise(
            maps, kernel, bias, padding, geometry.stride, geometry.dilation, geometry.groups, *activation
        )
        # Without an activation the result is not needed, and what follows may change it in place.
        ctx.save_for_backward(maps, kernel, None if activation[0] == "none" else result)
        ctx.geometry, ctx.padding, ctx.activation = geometry, padding, activation[0]
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        maps, kernel, result = ctx.saved_tensors
        geometry: Geometry = ctx.geometry
        gradient = _GRADIENTS[ctx.activation](gradients[0], result)
        own, before = _own(kernel, geometry, ctx.padding)
        stride, padding = list(geometry.stride), ctx.padding
        if is_spread := _can_spread(own, before, maps, geometry):
            kernel, stride, padding = own, [1, 1], [side // 2 for side in own.shape[2:]]
            first = [half - zeros for half, zeros in zip(padding, before, strict=True)]
            gradient = _spread(gradient, maps, geometry, first)
        of_maps, of_kernel, of_bias = torch.ops.aten.convolution_backward(
            gradient, maps, kernel, [len(kernel)], stride, padding, geometry.dilation, False, [0, 0], geometry.groups,
            ctx.needs_input_grad[:3],
        )  # fmt: skip
        if is_spread and of_kernel is not None:
            of_kernel = geometry.kernel(of_kernel)
        return of_maps, of_kernel, of_bias, None, None


def _own(kernel: Tensor, geometry: Geometry, padding: list[int]) -> tuple[Tensor, list[int]]:
    """A convolution's own kernel, without the zeros of :meth:`Geometry.kernel`, and the zeros before its map."""
    return (kernel[:, :, 1:, 1:], [zeros - 1 for zeros in padding]) if geometry.is_same else (kernel, padding)


def _can_spread(kernel: Tensor, before: list[int], maps: Tensor, geometry: Geometry) -> bool:
    """For depthwise convolutions with strides, of odd kernels that are padded by no more than half of them."""
    fits = all(side % 2 and zeros <= side // 2 for side, zeros in zip(kernel.shape[2:], before, strict=True))
    is_depthwise = geometry.groups == maps.shape[1] == len(kernel)
    return fits and is_depthwise and max(geometry.stride) > 1 and max(geometry.dilation) == 1


def _spread(gradient: Tensor, maps: Tensor, geometry: Geometry, first: list[int]) -> Tensor:
    """The gradient of the result that the same convolution would have without strides: zeros where those leave it out.

    Args:
        gradient: Of the result with strides.
        maps: What the convolution sees; without strides its result has the same sides.
        geometry: With the strides.
        first: Where the first pixel of the one lies in the other, each axis.
    """
    spread = torch.zeros_like(maps)
    rows, columns = (
        slice(start, start + step * (size - 1) + 1, step)
        for start, step, size in zip(first, geometry.stride, gradient.shape[2:], strict=True)
    )
    spread[:, :, rows, columns] = gradient
    return spread
