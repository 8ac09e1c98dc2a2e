"""Convolutions in a graph with what follows them: the normalisation, and the activation behind that.

What finds them here is used twice: to run frozen layers (``fused.py``), and to train layers whose normalisation keeps
its statistics (``quick.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, fx, nn


@dataclass(frozen=True)
class Chain:
    """Operations of a graph that can be done as one.

    Attributes:
        nodes: The convolution, and behind it, where they are there, the normalisation and the activation.
        conv: The convolution.
        bn: The normalisation, if any.
        activation: What is applied to the result; None for nothing.
        left: The node of a normalisation that carries an activation which cannot be done with the rest; it is not among
            ``nodes``, and its activation must be put in its place.
    """

    nodes: tuple[fx.Node, ...]
    conv: nn.Conv2d
    bn: nn.BatchNorm2d | None
    activation: nn.Module | None
    left: fx.Node | None


def find_chain(
    graph_module: fx.GraphModule,
    node: fx.Node,
    is_known: Callable[[nn.Module], bool],
    is_foldable: Callable[[nn.BatchNorm2d], bool] = lambda _: True,
) -> Chain | None:
    """What begins at a node; None where that is no plain convolution, or one that runs twice.

    Args:
        graph_module: With the node.
        node: Any.
        is_known: Whether an activation can be done together with a convolution.
        is_foldable: Whether a normalisation with running statistics can.
    """
    conv = _module(graph_module, node)
    if not isinstance(conv, nn.Conv2d) or not _is_plain(conv):
        return None
    nodes, bn, activation = [node], None, None
    following = _only_user(node)
    module = _module(graph_module, following)
    if isinstance(module, nn.BatchNorm2d):
        if module.running_mean is None or not is_foldable(module):
            return Chain((node,), conv, None, None, None)
        assert following is not None
        bn, own = module, own_activation(module)
        if not is_known(own):
            return Chain((node,), conv, bn, None, following)
        nodes.append(following)
        activation = None if isinstance(own, nn.Identity) else own
    following = _only_user(nodes[-1])
    behind = _module(graph_module, following)
    if activation is None and following is not None and behind is not None and is_known(behind):
        nodes.append(following)
        activation = behind
    return Chain(tuple(nodes), conv, bn, activation, None)


def own_activation(bn: nn.BatchNorm2d) -> nn.Module:
    """The activation that timm's normalisations carry; an identity for others."""
    own = getattr(bn, "act", None)
    return own if isinstance(own, nn.Module) else nn.Identity()


class Geometry(NamedTuple):
    """Where a convolution looks; a tuple, as graphs can hold it.

    Attributes:
        stride: Pixels between two results, each axis.
        padding: Zeros on both sides of each axis, unless ``is_same``.
        dilation: Pixels between two weights.
        groups: Of channels.
        is_same: TensorFlow's one-sided padding: with stride 2 and an odd kernel k, an even side wants (k - 3) / 2 zeros
            before and one more behind, an odd side (k - 1) / 2 on both.
    """

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    is_same: bool

    @classmethod
    def of(cls, conv: nn.Conv2d) -> Geometry:
        """That of a plain convolution."""
        padding = tuple(int(pixels) for pixels in conv.padding)
        return cls(conv.stride, padding, conv.dilation, conv.groups, _is_same(conv))

    def kernel(self, weight: Tensor) -> Tensor:
        """The weights with a row and a column of zeros before them, where padding is one-sided.

        Moved back by one, such a kernel sees the same pixels, and no padded copy of the map is made.
        """
        return nn.functional.pad(weight, (1, 0, 1, 0)) if self.is_same else weight

    def padding_of(self, kernel: torch.Size, sides: torch.Size) -> list[int]:
        """Zeros on both sides of each axis, for a :meth:`kernel` of these sides on a map of these."""
        if not self.is_same:
            return list(self.padding)
        return [(side - 2) // 2 + pixels % 2 for side, pixels in zip(kernel, sides, strict=True)]


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _module(graph_module: fx.GraphModule, node: fx.Node | None) -> nn.Module | None:
    if node is None or node.op != "call_module":
        return None
    # A module that runs twice is not the place for what follows one of its runs.
    runs = sum(other.op == "call_module" and other.target == node.target for other in graph_module.graph.nodes)
    return graph_module.get_submodule(str(node.target)) if runs == 1 else None


def _is_plain(conv: nn.Conv2d) -> bool:
    """True for a convolution whose forward pass is PyTorch's own, or timm's with TensorFlow's padding."""
    if _is_same(conv):
        return conv.stride == (2, 2) and conv.dilation == (1, 1) and all(side % 2 for side in conv.kernel_size)
    return type(conv) is nn.Conv2d and conv.padding_mode == "zeros" and isinstance(conv.padding, tuple)


def _is_same(conv: nn.Conv2d) -> bool:
    from timm.layers.conv2d_same import Conv2dSame

    return isinstance(conv, Conv2dSame)
