"""A backbone as a graph: which layers it has, where it can be cut in two, and what freezing a part of it means.

A *layer* is a module with weights (a convolution, a dense layer, an attention block) together with the
normalisation and the activation that follow it, in the order in which they run. A network can be *cut* behind any
operation after which a single tensor is left to go on with; inside a residual block there are two.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass

from torch import fx, nn

from tintype.errors import ConfigError
from tintype.models import blocks

Freeze = int | str
"""``all``, ``none``, a number of layers from the input on, or the name of a layer or stage up to which to freeze."""

_LEAF_ROOMS = ("torch.nn", "timm.layers", blocks.__name__)
_SHOWN_NAMES = 30


class Tracer(fx.Tracer):
    """Follows a network down to PyTorch's own layers and timm's; what those do inside is theirs."""

    def __init__(self) -> None:
        # timm takes seconds to import, and networks without a backbone do not need it.
        from timm.layers.conv_bn_act import ConvNormAct
        from timm.models._features_fx import get_notrace_functions, get_notrace_modules

        super().__init__(autowrap_functions=tuple(get_notrace_functions()))  # type: ignore[no-untyped-call]
        self._followed = (nn.Sequential, blocks.ResidualBlock, ConvNormAct)
        self._opaque: list[type[nn.Module]] = get_notrace_modules()  # type: ignore[no-untyped-call]

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002 - torch's signature
        """True for a module that becomes one operation of the graph."""
        if isinstance(m, self._followed):
            return False
        return type(m) in self._opaque or type(m).__module__.startswith(_LEAF_ROOMS)


def traced(module: nn.Module) -> fx.GraphModule | None:
    """The module as a graph with the same parameters under the same names; None where its code cannot be followed."""
    if isinstance(module, fx.GraphModule):
        return module
    training = module.training
    module.eval()
    try:
        return fx.GraphModule(module, Tracer().trace(module))
    except (fx.proxy.TraceError, TypeError, AttributeError, RuntimeError, ValueError, AssertionError):
        return None
    finally:
        module.train(training)


@dataclass(frozen=True)
class Layer:
    """A layer with weights.

    Attributes:
        name: The module's name inside the backbone.
        position: Where in the graph it runs.
    """

    name: str
    position: int


@dataclass(frozen=True)
class Boundary:
    """Where a backbone is frozen.

    Attributes:
        layers: Layers that the backbone has.
        frozen: How many of them do not train.
        position: Last operation of the frozen part; -1 for none.
        cut: Last operation at or before it behind which the backbone can be cut in two; -1 for none.
        name: The last frozen layer's name; empty for none.
    """

    layers: int
    frozen: int
    position: int
    cut: int
    name: str

    @property
    def is_everything(self) -> bool:
        """True when no layer of the backbone trains."""
        return self.frozen == self.layers


def layers_of(graph_module: fx.GraphModule) -> tuple[Layer, ...]:
    """The layers with weights, in the order in which they run."""
    found: dict[str, Layer] = {}
    for position, node in enumerate(graph_module.graph.nodes):
        if node.op != "call_module" or str(node.target) in found:
            continue
        module = graph_module.get_submodule(str(node.target))
        if any(parameter.ndim >= 2 for parameter in module.parameters()):
            found[str(node.target)] = Layer(str(node.target), position)
    return tuple(found.values())


def find_boundary(backbone: nn.Module, freeze: Freeze) -> Boundary:
    """Where a backbone is frozen, from what a user wrote.

    Args:
        backbone: The network without its classifier.
        freeze: See :data:`Freeze`.

    Raises:
        ConfigError: There is no such layer, or fewer layers than named.
    """
    graph_module = traced(backbone)
    if graph_module is None:
        if freeze not in ("all", "none"):
            raise ConfigError(f"freeze: this backbone can be frozen whole or not at all: all or none. Got {freeze!r}.")
        return Boundary(1, int(freeze == "all"), -1, -1, "all of it" if freeze == "all" else "")
    layers = layers_of(graph_module)
    frozen = _count_frozen(graph_module, layers, freeze)
    nodes = list(graph_module.graph.nodes)
    if frozen == 0:
        return Boundary(len(layers), 0, -1, -1, "")
    # Normalisation, activation and pooling behind the last frozen layer belong to it.
    position = layers[frozen].position - 1 if frozen < len(layers) else len(nodes) - 2
    cuts = [place for place, _ in _cut_places(graph_module.graph) if place <= position]
    return Boundary(len(layers), frozen, position, max(cuts, default=-1), layers[frozen - 1].name)


def freeze_of_depth(backbone: nn.Module, depth: int | str) -> Freeze:
    """What to freeze so that the last ``depth`` layers train; ``all`` layers train with ``all``.

    Raises:
        ConfigError: The backbone has fewer layers.
    """
    if depth == "all":
        return "none"
    graph_module = traced(backbone)
    count = len(layers_of(graph_module)) if graph_module is not None else 1
    assert isinstance(depth, int)
    if not 0 <= depth <= count:
        raise ConfigError(f"depth: this backbone has {count} layers; give 0 to {count}, or all. Got {depth}.")
    if graph_module is None:
        return "none" if depth else "all"
    return count - depth


def split_backbone(backbone: nn.Module, boundary: Boundary) -> tuple[nn.Module, nn.Module | None]:
    """Cut a backbone in two that share its parameters, under the same names.

    Args:
        backbone: The whole.
        boundary: Must have a place to cut, or be everything.

    Returns:
        What lies before the cut, and what lies behind it; None if nothing does.
    """
    if boundary.is_everything:
        return backbone, None
    graph_module = traced(backbone)
    assert graph_module is not None, "only a network that was followed has a boundary inside"
    assert boundary.cut >= 0, "the boundary has no place to cut"
    carried = dict(_cut_places(graph_module.graph))[boundary.cut]
    nodes = list(graph_module.graph.nodes)
    front, back = fx.Graph(), fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in nodes[: boundary.cut + 1]:
        copies[node] = front.node_copy(node, copies.__getitem__)
    front.output(copies[carried])
    copies = {carried: back.placeholder("features")}
    for node in nodes[boundary.cut + 1 :]:
        for source in node.all_input_nodes:
            if source not in copies:  # a constant that was read before the cut
                copies[source] = back.node_copy(source, copies.__getitem__)
        copies[node] = back.node_copy(node, copies.__getitem__)
    parts = fx.GraphModule(graph_module, front), fx.GraphModule(graph_module, back)
    for part in parts:
        part.meta.update(graph_module.meta)
    return parts


def cut_behind(backbone: nn.Module, name: str) -> nn.Module:
    """The backbone up to and with a layer or stage, as a network of its own; what lies behind is dropped.

    Raises:
        ConfigError: There is no such layer, or more than one tensor goes on from it.
    """
    graph_module = traced(backbone)
    if graph_module is None:
        raise ConfigError("cut: this backbone's code cannot be followed, so it cannot be cut. Leave cut out.")
    position = _last_of(graph_module, name, "cut")
    places = dict(_cut_places(graph_module.graph))
    layers = layers_of(graph_module)
    following = [layer.position for layer in layers if layer.position > position]
    end = following[0] - 1 if following else len(graph_module.graph.nodes) - 2
    # The normalisation and activation of the last layer go with it, where the network can be cut behind them.
    behind = [place for place in places if position <= place <= end]
    if not behind:
        inside = [layers[number].name for number in range(len(layers)) if layers[number].position in places]
        raise ConfigError(
            f"cut: {name!r} lies inside a block from which several tensors go on. Cut behind one of: "
            f"{_shortened(inside)}."
        )
    boundary = Boundary(len(layers), 1, behind[-1], behind[-1], name)
    return split_backbone(graph_module, boundary)[0] if following or behind[-1] < end else graph_module


def frozen_modules(backbone: nn.Module, boundary: Boundary) -> tuple[str, ...]:
    """Names of the modules (inside the backbone) that do not train; an empty name is the whole backbone."""
    if boundary.frozen == 0:
        return ()
    if boundary.is_everything:
        return ("",)
    graph_module = traced(backbone)
    assert graph_module is not None
    nodes = list(graph_module.graph.nodes)[: boundary.position + 1]
    return tuple(dict.fromkeys(str(node.target) for node in nodes if node.op == "call_module"))


def layer_depths(backbone: nn.Module) -> dict[str, int]:
    """How many layers come after each parameter's own, by the parameter's name; empty where that is not known."""
    graph_module = traced(backbone)
    if graph_module is None:
        return {}
    positions = [layer.position for layer in layers_of(graph_module)]
    depths: dict[str, int] = {}
    for position, node in enumerate(graph_module.graph.nodes):
        depth = sum(other > position for other in positions)
        if node.op == "get_attr":
            depths.setdefault(str(node.target), depth)
        elif node.op == "call_module":
            module = graph_module.get_submodule(str(node.target))
            for name, _ in module.named_parameters():
                depths.setdefault(f"{node.target}.{name}", depth)
    return depths


def _count_frozen(graph_module: fx.GraphModule, layers: tuple[Layer, ...], freeze: Freeze) -> int:
    if freeze == "all":
        return len(layers)
    if freeze == "none":
        return 0
    if isinstance(freeze, int):
        if not 0 <= freeze <= len(layers):
            raise ConfigError(
                f"freeze: this backbone has {len(layers)} layers; give 0 to {len(layers)}, a name, all or none. "
                f"Got {freeze}."
            )
        return freeze
    position = _last_of(graph_module, freeze, "freeze")
    return sum(layer.position <= position for layer in layers)


def _last_of(graph_module: fx.GraphModule, name: str, setting: str) -> int:
    """The last operation of a layer or stage."""
    targets = [
        (position, str(node.target))
        for position, node in enumerate(graph_module.graph.nodes)
        if node.op == "call_module"
    ]
    found = [position for position, target in targets if target == name or target.startswith(f"{name}.")]
    if not found:
        stages = dict.fromkeys(".".join(target.split(".")[:2]) for _, target in targets)
        near = difflib.get_close_matches(name, [target for _, target in targets], n=1)
        hint = f"Did you mean {near[0]}? " if near else ""
        raise ConfigError(
            f"{setting}: the backbone has no layer {name!r}. {hint}There are: {_shortened(list(stages))}."
        )
    return found[-1]


def _cut_places(graph: fx.Graph) -> Iterator[tuple[int, fx.Node]]:
    """Positions behind which one tensor alone goes on, with that tensor.

    Constants of the network (position embeddings and the like) can be read again behind a cut.
    """
    nodes = list(graph.nodes)
    last_use = {source: position for position, node in enumerate(nodes) for source in node.all_input_nodes}
    live: dict[fx.Node, None] = {}
    for position, node in enumerate(nodes[:-1]):
        if node.op != "get_attr":
            live[node] = None
        for source in [item for item in live if last_use.get(item, -1) <= position]:
            del live[source]
        if len(live) == 1 and position > 0 and _is_tensor(next(iter(live))):
            yield position, next(iter(live))


def _is_tensor(node: fx.Node) -> bool:
    """False for shapes and numbers that a network reads off a tensor."""
    if node.op == "call_function":
        return node.target is not getattr
    return not (node.op == "call_method" and node.target in ("size", "dim"))


def _shortened(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN_NAMES]) + (" ..." if len(names) > _SHOWN_NAMES else "")
