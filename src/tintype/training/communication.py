"""How gradients travel between ranks: whole, rounded, as matrices of low rank, or not in every step.

``fp32`` and ``bf16`` add up the gradients of every step; the second rounds them on the way, to the eight bits that
bf16 arithmetic has anyway. ``powersgd`` and ``local_sgd`` send far less and change the result: they are only taken when
asked for. The first approximates each gradient by a product of thin matrices and carries what is lost into the next
step (Vogels et al., PowerSGD, 2019); in the second every rank trains by itself and the weights are averaged every so
many steps (Lin et al., Don't Use Large Mini-Batches, Use Local SGD, 2018). Both begin after a tenth of the training, as
their authors advise.

Annotations are not put off here: DistributedDataParallel looks at those of its hook.
"""

import statistics
import time
from collections.abc import Iterable
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import GradBucket  # type: ignore[attr-defined]  # not in its __all__
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook
from torch.futures import Future

from tintype.config import ParallelConfig
from tintype.runtime import Runtime

Method = Literal["fp32", "bf16", "powersgd", "local_sgd"]

BEGIN_SHARE = 0.1
"""Share of the training after which methods begin that change the result."""

MEASURED_VALUES = 2**20
"""Gradients in a measurement: 4 MiB, 0.04 s on a link of 1 Gbit/s and 0.4 s on one of 100 Mbit/s."""

MEASUREMENTS = 3

CLEARLY_FASTER = 0.9
"""bf16 is taken where it needs less than this share of the time of fp32."""

ONE_BUCKET_MB = 2.0**20
"""PowerSGD sends three messages after one another for each bucket. With two buckets under way ranks may send them in
other orders, which gloo answers by an error; with one they cannot."""

_STATE = ("error_dict", "p_memory_dict", "q_memory_dict")


class GradientSum:
    """What happens to a bucket of gradients when it is complete; :meth:`sum_over_ranks` is the hook.

    Args:
        method: How gradients travel.
        config: The rank of PowerSGD's matrices.
        group: The ranks; None for all.
        total_steps: Of the whole training.

    Attributes:
        is_plain: While true, gradients are added up as they are, whatever the method.
    """

    def __init__(
        self, method: Method, config: ParallelConfig, group: dist.ProcessGroup | None, total_steps: int
    ) -> None:
        self._method = method
        self._group = group
        self.is_plain = False
        begins = first_changed_step(total_steps)
        self._state = PowerSGDState(
            group, config.powersgd_rank, start_powerSGD_iter=begins, use_error_feedback=True, warm_start=True
        )

    def sum_over_ranks(self, _state: object, bucket: GradBucket) -> Future[Tensor]:
        """The future of the sum over the ranks."""
        if self._method == "bf16" and not self.is_plain:
            return _sum_rounded(bucket.buffer(), self._group)
        if self._method == "powersgd" and not self.is_plain:
            future: Future[Tensor] = powerSGD_hook(self._state, bucket)
            size = dist.get_world_size(self._group)
            return future.then(lambda done: done.value().mul_(size))  # it gives the mean
        return _sum(bucket.buffer(), self._group)

    def at_step(self, step: int) -> None:
        """Tell the number of the step that follows, from 0; in a run that goes on it is not the first."""
        self._state.iter = step

    def state(self) -> dict[str, Tensor]:
        """What PowerSGD carries from step to step, which is another on each rank."""
        return {f"{name}/{bucket}": tensor for name in _STATE for bucket, tensor in getattr(self._state, name).items()}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Put back what :meth:`state` gave."""
        for name in _STATE:
            content: dict[int, Any] = getattr(self._state, name)
            content.clear()
            for key, tensor in tensors.items():
                of, _, bucket = key.partition("/")
                if of == name:
                    content[int(bucket)] = tensor


def first_changed_step(total_steps: int) -> int:
    """The first step of a training in which ``powersgd`` compresses, or ``local_sgd`` lets the ranks train alone."""
    return max(2, round(BEGIN_SHARE * total_steps))


class LocalWeights:
    """The weights of ranks that train by themselves for a while, on their way from common ones to common ones.

    What is sent is how far a rank has gone, in bf16: half the bytes, and an error of a 500th of a step at most.

    Args:
        weights: Those that train; the same on all ranks now.
        group: The ranks; None for all.
    """

    def __init__(self, weights: Iterable[Tensor], group: dist.ProcessGroup | None) -> None:
        self._weights = [weight.detach() for weight in weights]
        self._sizes = [weight.numel() for weight in self._weights]
        self._common = _flat(self._weights)
        self._group = group

    def average(self) -> None:
        """Give all ranks the mean of their weights."""
        moved = (_flat(self._weights) - self._common).to(torch.bfloat16)
        dist.all_reduce(moved, group=self._group)
        self._common.add_(moved, alpha=1 / dist.get_world_size(self._group))
        for weight, mean in zip(self._weights, torch.split(self._common, self._sizes), strict=True):
            weight.copy_(mean.view(weight.shape))


def average(tensors: Iterable[Tensor], group: dist.ProcessGroup | None) -> None:
    """Replace each floating tensor by its mean over the ranks."""
    floating = [tensor for tensor in tensors if tensor.is_floating_point()]
    if floating:
        flat = _flat(floating)
        dist.all_reduce(flat, group=group)
        flat.div_(dist.get_world_size(group))
        for tensor, mean in zip(floating, torch.split(flat, [tensor.numel() for tensor in floating]), strict=True):
            tensor.detach().copy_(mean.view_as(tensor))


def _flat(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def choose_method(config: ParallelConfig, runtime: Runtime, gradients: int) -> tuple[Method, str]:
    """How gradients travel: what the settings say, or the faster of those that change no more than rounding.

    All ranks call this together, and all get the same answer.

    Args:
        config: ``comm``; ``auto`` measures.
        runtime: Ranks, and the precision that the network computes in: what is computed in fp32 travels in fp32.
        gradients: How many values a step sends.

    Returns:
        The method, and why.
    """
    if config.comm != "auto":
        return config.comm, "as set"
    if runtime.precision == "fp32":
        return "fp32", "what is computed in fp32 is sent as it is"
    seconds = {method: _measured(method, runtime) for method in ("fp32", "bf16")}
    shown = ", ".join(f"{method} {gradients / MEASURED_VALUES * value:.2f} s" for method, value in seconds.items())
    method: Method = "bf16" if seconds["bf16"] < CLEARLY_FASTER * seconds["fp32"] else "fp32"
    method = runtime.world.agree(method)
    return method, f"{gradients:,} gradients of a step take, by themselves: {shown}"


def _measured(method: str, runtime: Runtime) -> float:
    """Median seconds that :data:`MEASURED_VALUES` gradients take."""
    values = torch.zeros(MEASURED_VALUES, device=runtime.device)
    seconds = []
    for _ in range(MEASUREMENTS):
        runtime.world.wait()
        begun = time.perf_counter()
        (_sum_rounded if method == "bf16" else _sum)(values, runtime.world.gradients).wait()
        values.sum().item()  # on a GPU, until it is there
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds)


def _sum(gradients: Tensor, group: dist.ProcessGroup | None) -> Future[Tensor]:
    """The sum, in place. No mean: a step's loss is the mean over the images of all ranks already."""
    future: Future[list[Tensor]] = dist.all_reduce(gradients, group=group, async_op=True).get_future()
    return future.then(lambda done: done.value()[0])


def _sum_rounded(gradients: Tensor, group: dist.ProcessGroup | None) -> Future[Tensor]:
    """The sum of the gradients rounded to bf16.

    Dividing them there, as torch's own hook does, took as long as both conversions together (13 and 8 + 8 ms for 11
    million values on a core of an Intel Xeon with AMX, 2026-11-21).
    """
    rounded = gradients.to(torch.bfloat16)
    future: Future[list[Tensor]] = dist.all_reduce(rounded, group=group, async_op=True).get_future()
    return future.then(lambda done: gradients.copy_(done.value()[0]))
