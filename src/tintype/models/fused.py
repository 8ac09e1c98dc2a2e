"""The frozen part of a network, made for speed: the same values from fewer passes over memory.

On a CPU a modern network's time goes into memory, not arithmetic: of MobileNetV2's 64 images (bf16, 224 px), 44 % was
spent in ReLU6, 16 % in padding and 31 % in convolutions. Here each BatchNorm is folded into the convolution before
it (exactly, as its statistics do not change), the activation behind it is applied by oneDNN while the
convolution's result is still in the core's cache, and the one-sided padding of ``pad=same`` becomes a wider kernel
with zeros. Measured with torch 2.15 on two Intel cores with AMX (2026-11-21, batches of 32, median of 6): fp32 as it is
81 images/s, bf16 autocast in channels-last 150, folded 170, fused 471.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from tintype.config import PrecisionName
from tintype.models.graph import traced
from tintype.models.network import standardized

_Attributes = tuple[str, list[float], str]
"""Name, numbers and algorithm of an activation, in oneDNN's words."""

_ACTIVATIONS: dict[type[nn.Module], Callable[[nn.Module], _Attributes]] = {
    nn.ReLU: lambda _: ("relu", [], ""),
    nn.ReLU6: lambda _: ("hardtanh", [0.0, 6.0], ""),
    nn.Hardswish: lambda _: ("hardswish", [], ""),
    nn.SiLU: lambda _: ("swish", [], ""),
    nn.Sigmoid: lambda _: ("sigmoid", [], ""),
    nn.Tanh: lambda _: ("tanh", [], ""),
    nn.Identity: lambda _: ("none", [], ""),
}


class Front(nn.Module):
    """What lies before a cut, in inference mode: images in, features out.

    Args:
        layers: What lies before the cut in a backbone.
        mean: The whole network's, which comes first.
        std: Likewise.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, layers: nn.Module, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.layers = layers
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.requires_grad_(False).eval()

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Features, fp32 or bf16, of uint8 or float images of 0..255."""
        features: Tensor = self.layers(standardized(images_NCHW, self.mean, self.std))
        return features


class FusedConv(nn.Module):
    """A convolution with what follows it folded in.

    Args:
        conv: The convolution.
        bn: The normalisation behind it, if any.
        activation: In oneDNN's words.
        dtype: fp32 or bf16, of the weights and of the result.
    """

    def __init__(self, conv: nn.Conv2d, bn: nn.BatchNorm2d | None, activation: _Attributes, dtype: torch.dtype) -> None:
        super().__init__()
        weight, bias = conv.weight, conv.bias
        if bias is None:
            bias = nn.Parameter(torch.zeros(len(weight), device=weight.device))
        if bn is not None:
            assert bn.running_mean is not None
            assert bn.running_var is not None
            weight, bias = fuse_conv_bn_weights(
                weight, bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias
            )
        self.is_same = _is_same(conv)
        self.geometry = (list(conv.stride), list(conv.dilation), conv.groups)
        if self.is_same:
            weight = nn.Parameter(nn.functional.pad(weight, (1, 0, 1, 0)))
        self.padding = [int(pixels) for pixels in conv.padding]
        self.activation = activation
        self.register_buffer("weight", weight.detach().to(dtype).contiguous(memory_format=torch.channels_last))
        self.register_buffer("bias", bias.detach().to(dtype))

    weight: Tensor
    bias: Tensor

    def forward(self, maps_NCHW: Tensor) -> Tensor:
        """Maps of the weights' type."""
        padding = self._same_padding(maps_NCHW) if self.is_same else self.padding
        convolved: Tensor = torch.ops.mkldnn._convolution_pointwise(
            maps_NCHW.to(self.weight.dtype), self.weight, self.bias, padding, *self.geometry, *self.activation
        )
        return convolved

    def _same_padding(self, maps_NCHW: Tensor) -> list[int]:
        """Padding on both sides of each axis that gives TensorFlow's one-sided zeros.

        With stride 2 and an odd kernel k, an even side wants (k - 3) / 2 zeros before and one more behind, an odd side
        (k - 1) / 2 on both. The kernel here begins with a row and a column of zeros: moved back by one it sees the
        same pixels, and no padded copy of the map is made.
        """
        kernel = self.weight.shape[2:]
        return [(side - 2) // 2 + pixels % 2 for side, pixels in zip(kernel, maps_NCHW.shape[2:], strict=True)]


def can_fuse(device: torch.device) -> bool:
    """True where PyTorch was built with oneDNN's fused convolution, and on a CPU."""
    return (
        device.type == "cpu"
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
    )


def fused(layers: nn.Module, precision: PrecisionName) -> nn.Module:
    """A copy of a network that gives the same values faster, for inference on a CPU.

    Whatever cannot be fused stays as it is; a network whose code cannot be followed comes back unchanged.

    Args:
        layers: A network in inference mode.
        precision: ``bf16`` convolutions take and give bf16; run the rest under autocast.
    """
    original = traced(layers)
    if original is None:
        return layers
    graph_module = copy.deepcopy(original).eval()
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    for node in list(graph_module.graph.nodes):
        conv = _module(graph_module, node)
        if isinstance(conv, nn.Conv2d) and _is_plain(conv):
            _fuse_at(graph_module, node, conv, dtype)
    graph_module.graph.lint()
    graph_module.delete_all_unused_submodules()
    graph_module.recompile()
    return graph_module


def _fuse_at(graph_module: fx.GraphModule, node: fx.Node, conv: nn.Conv2d, dtype: torch.dtype) -> None:
    """Put one module in the place of a convolution, the normalisation behind it and the activation behind that."""
    last, bn, activation = node, None, ("none", list[float](), "")
    following = _only_user(last)
    module = _module(graph_module, following)
    if following is not None and isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
        bn, own = module, getattr(module, "act", nn.Identity())  # timm's normalisation carries its activation
        known = _attributes(own)
        if known is None:
            graph_module.set_submodule(str(following.target), own)
        else:
            last, activation = following, known
    following = _only_user(last)
    module = _module(graph_module, following)
    behind = _attributes(module) if module is not None and activation[0] == "none" else None
    if following is not None and behind is not None:
        last, activation = following, behind
    graph_module.set_submodule(str(node.target), FusedConv(conv, bn, activation, dtype))
    for done in _between(node, last):
        done.replace_all_uses_with(node)
        graph_module.graph.erase_node(done)


def _between(first: fx.Node, last: fx.Node) -> list[fx.Node]:
    """The operations after ``first`` up to and with ``last``, the last one first."""
    chain = []
    while last is not first:
        chain.append(last)
        last = last.all_input_nodes[0]
    return chain


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _module(graph_module: fx.GraphModule, node: fx.Node | None) -> nn.Module | None:
    if node is None or node.op != "call_module":
        return None
    # A module that runs twice is not the place for what follows one of its runs.
    runs = sum(other.op == "call_module" and other.target == node.target for other in graph_module.graph.nodes)
    return graph_module.get_submodule(str(node.target)) if runs == 1 else None


def _attributes(module: nn.Module) -> _Attributes | None:
    make = _ACTIVATIONS.get(type(module))
    return make(module) if make is not None else None


def _is_plain(conv: nn.Conv2d) -> bool:
    """True for a convolution whose forward pass is PyTorch's own, or timm's with TensorFlow's padding."""
    if _is_same(conv):
        return conv.stride == (2, 2) and conv.dilation == (1, 1) and all(side % 2 for side in conv.kernel_size)
    return type(conv) is nn.Conv2d and conv.padding_mode == "zeros" and isinstance(conv.padding, tuple)


def _is_same(conv: nn.Conv2d) -> bool:
    from timm.layers.conv2d_same import Conv2dSame

    return isinstance(conv, Conv2dSame)
