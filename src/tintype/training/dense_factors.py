"""Gradients of large dense layers that travel as what they are made of, and are multiplied out on every rank.

The gradient of a dense layer's weights is the product of two thin matrices: what the layer's outputs are wanted to
change, (N, out), and its inputs, (N, in), for the N images of a step. Where a step has few images and the layer many
weights, both together are a fraction of their product: 2.2 million values in place of 13 million for the first dense
layer of the larger network on cats_dogs, with 64 images. So every rank sends its own rows of both, and multiplies those
of all (Xie et al., Distributed Machine Learning via Sufficient Factor Broadcasting, 2015). The sum is the same, and
rounded once instead of once on each rank.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Variable
from torch.nn.functional import linear

from tintype.config import ParallelConfig
from tintype.models.network import Network, Tail
from tintype.ranks.world import World
from tintype.training.step_clock import Clock

LEAST_WEIGHTS = 2**18
"""Gradients of smaller layers take a millisecond on a link of 1 Gbit/s."""

CLEARLY_LESS = 0.5
"""Factors are sent where they are less than this share of what a ring would send of the gradients."""

_TIMED_PRODUCTS = 5

Take = Callable[[Tensor, Tensor], None]


class FactoredLinear(nn.Linear):
    """A dense layer that hands its weights' gradient on as its factors.

    Args:
        of: The layer that it stands for; weights and bias are the same tensors.
    """

    def __init__(self, of: nn.Linear) -> None:
        super().__init__(of.in_features, of.out_features, device="meta")
        self.weight, self.bias = of.weight, of.bias
        self.take: Take | None = None
        self.train(of.training)

    def forward(self, values_NI: Tensor) -> Tensor:
        """The layer's outputs, (N, out), of inputs (N, in)."""
        if self.take is None or not torch.is_grad_enabled():
            return super().forward(values_NI)
        outputs_NO = linear(values_NI, self.weight.detach(), self.bias)
        outputs_NO.register_hook(partial(self._hand_on, values_NI.detach()))  # type: ignore[no-untyped-call]
        return outputs_NO

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Linear:
        """A copy, such as the moving average of a network, is a layer like any other."""
        copied = nn.Linear(self.in_features, self.out_features, device="meta")
        copied.weight, copied.bias = copy.deepcopy(self.weight, memo), copy.deepcopy(self.bias, memo)
        memo[id(self)] = copied.train(self.training)
        return copied

    def _hand_on(self, values_NI: Tensor, gradient_NO: Tensor) -> None:
        assert self.take is not None
        self.take(values_NI, gradient_NO)


class _Travelling:
    """The factors of one layer, on their way to all ranks."""

    def __init__(self, layer: FactoredLinear, rows: int, group: dist.ProcessGroup | None, clock: Clock) -> None:
        self.layer, self._group, self._clock = layer, group, clock
        self._width = layer.in_features + layer.out_features
        self._rows, self._ranks = rows, dist.get_world_size(group)
        self._mine: Tensor | None = None
        self._all: Tensor | None = None

    def put(self, first: int, values_NI: Tensor, gradient_NO: Tensor) -> None:
        """Put some images' rows in their place; what is left over stays zero and adds nothing."""
        if self._mine is None or self._mine.dtype != gradient_NO.dtype:
            # Kept from step to step: memory that is asked for anew is filled page by page.
            self._mine = gradient_NO.new_zeros(self._rows, self._width)
            self._all = gradient_NO.new_empty(self._ranks * self._rows, self._width)
        rows, inputs = slice(first, first + len(values_NI)), self.layer.in_features
        self._mine[rows, :inputs] = values_NI
        self._mine[rows, inputs:] = gradient_NO

    def send(self) -> None:
        """Let the rows of all ranks be gathered while the backward pass goes on, and be multiplied out at its end.

        DistributedDataParallel asks for its turn at the end later, and waits there: the product is made meanwhile.
        """
        assert self._mine is not None
        assert self._all is not None
        arrived = self._clock.sends(self._mine.nbytes)
        work = dist.all_gather_into_tensor(self._all, self._mine, group=self._group, async_op=True)
        assert work is not None
        work.get_future().then(lambda _: arrived())
        Variable._execution_engine.queue_callback(partial(self._finish, work))

    @torch.no_grad()
    def _finish(self, work: dist.Work) -> None:
        """Give the weights the gradient of all images."""
        assert self._all is not None
        work.wait()
        done = self._clock.multiplies()
        self.layer.weight.grad = _product(self._all, self.layer)
        done()


class DenseFactors:
    """The dense layers of a network whose gradients travel as factors, until :meth:`undo`.

    Args:
        network: Changed in place; names, weights and biases stay.
        rows: Most images of a step that one rank has.
        group: The ranks; None for all.
        clock: Is told when factors are sent and when they have arrived.

    Attributes:
        names: Of the weights, which DistributedDataParallel must leave alone.
    """

    def __init__(self, network: Network, rows: int, group: dist.ProcessGroup | None, clock: Clock) -> None:
        self._first, self._is_last = 0, True
        self.names: list[str] = []
        self._replaced: list[tuple[nn.Module, str, nn.Linear]] = []
        for name, layer in factored_layers(network, rows, dist.get_world_size(group)).items():
            parent = network.get_submodule(name.rpartition(".")[0])
            factored = FactoredLinear(layer)
            self._replaced.append((parent, name.rpartition(".")[2], layer))
            setattr(parent, name.rpartition(".")[2], factored)
            self.names.append(f"{name}.weight")
            travelling = _Travelling(factored, rows, group, clock)
            factored.take = partial(self._take, travelling)
            dist.broadcast(factored.weight.detach(), group=group, group_src=0)  # as it does with all others

    def at(self, first: int) -> None:
        """Tell the place, among this rank's images of the step, of those that go through the network next."""
        self._first = first

    def part(self, is_last: bool) -> None:
        """Tell whether these images are the last of the step, so that factors are sent."""
        self._is_last = is_last

    def _take(self, travelling: _Travelling, values_NI: Tensor, gradient_NO: Tensor) -> None:
        travelling.put(self._first, values_NI, gradient_NO)
        if self._is_last:
            travelling.send()

    def undo(self) -> None:
        """Put the layers back."""
        for parent, name, layer in self._replaced:
            setattr(parent, name, layer)


def _product(factors_NF: Tensor, layer: nn.Linear) -> Tensor:
    """The gradient of a layer's weights, (out, in), from the rows of all images: its inputs, then its outputs'."""
    values_NI, gradient_NO = factors_NF[:, : layer.in_features], factors_NF[:, layer.in_features :]
    return (gradient_NO.t() @ values_NI).to(layer.weight.dtype)


@torch.no_grad()
def product_seconds(layers: Iterable[nn.Linear], rows: int, kind: torch.dtype, world: World) -> float:
    """Seconds in which so many rows of factors are multiplied out: medians, the mean over ranks that all do so at once.

    Args:
        layers: Whose factors they are.
        rows: Of all ranks together.
        kind: Of the factors.
        world: All ranks call this together.
    """
    total = 0.0
    for layer in layers:
        factors_NF = torch.zeros(rows, layer.in_features + layer.out_features, dtype=kind)
        took = []
        for _ in range(_TIMED_PRODUCTS):
            world.wait()
            begun = time.perf_counter()
            _product(factors_NF, layer)
            took.append(time.perf_counter() - begun)
        total += statistics.fmean(world.exchange(statistics.median(took)))
    return total


def sends_factors(config: ParallelConfig) -> bool:
    """Whether factors may travel: not where gradients are approximated, or do not travel in every step."""
    return config.dense_factors and config.comm not in ("powersgd", "local_sgd")


def factored_layers(network: Network, rows: int, ranks: int) -> dict[str, nn.Linear]:
    """The dense layers whose factors are clearly less than their gradients, by name.

    Args:
        network: Its layers see images of its own shape.
        rows: Most images of a step that one rank has.
        ranks: How many there are: a rank receives the factors of all others, where a ring sends its gradients twice.
    """
    found = {
        layer: name
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Linear)
        and layer.weight.requires_grad
        and layer.bias is not None
        and layer.bias.requires_grad
        and layer.weight.numel() >= LEAST_WEIGHTS
        and ranks * rows * (layer.in_features + layer.out_features) < 2 * CLEARLY_LESS * layer.weight.numel()
    }
    if not found:
        return {}
    rows_of = _rows_of_an_image(network, list(found))
    return {name: layer for layer, name in found.items() if rows_of[layer] == [(1,)]}


def _rows_of_an_image(network: Network, layers: list[nn.Linear]) -> dict[nn.Module, list[tuple[int, ...]]]:
    """The axes before the last of what a layer sees of one image, each time that it is called; (1,) is a row."""
    seen: dict[nn.Module, list[tuple[int, ...]]] = {layer: [] for layer in layers}

    def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen[layer].append(tuple(inputs[0].shape[:-1]))

    handles = [layer.register_forward_pre_hook(note) for layer in layers]
    training = network.training
    shape = network.feature_shape if isinstance(network, Tail) else network.input_shape
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, *shape, device=network.mean.device))
    finally:
        network.train(training)
        for handle in handles:
            handle.remove()
    return seen
