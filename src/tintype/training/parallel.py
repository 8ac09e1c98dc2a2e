"""The network as one of several processes trains it: a share of every step's images, and the gradients of all.

Averaging gradients is DistributedDataParallel's work. A step's loss is the mean over the images of all ranks, each of
which has a contiguous share of them, so that two ranks compute what one would.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tintype.config import ParallelConfig
from tintype.errors import ConfigError
from tintype.models.blocks import Dropout
from tintype.models.network import Network
from tintype.runtime import Runtime
from tintype.training.communication import (
    ONE_BUCKET_MB,
    GradientSum,
    LocalWeights,
    Method,
    average,
    first_changed_step,
)
from tintype.training.dense_factors import DenseFactors, sends_factors
from tintype.training.step_clock import NO_CLOCK, Clock
from tintype.training.sync_batchnorm import Synchronised


class _Wrapped(DistributedDataParallel):
    """DistributedDataParallel that leaves some weights to others.

    Args:
        network: The network.
        left_alone: Names of these weights.
        options: As for DistributedDataParallel.
    """

    def __init__(self, network: Network, left_alone: Sequence[str], **options: Any) -> None:
        # The way that its own documentation shows; neither network nor weights need remember it.
        self._set_params_and_buffers_to_ignore_for_model(network, list(left_alone))  # type: ignore[no-untyped-call]
        try:
            super().__init__(network, **options)
        finally:
            del network._ddp_params_and_buffers_to_ignore
            for name in left_alone:
                del network.get_parameter(name)._ddp_ignored  # type: ignore[attr-defined]


class Replica:
    """A rank's copy of the network in training; the network itself in a world of one.

    Args:
        network: On its device; its trained parameters get the gradients. Rank 0's weights go to all.
        config: How gradients travel.
        runtime: Device and ranks.
        total_steps: Of the whole training.
        batch_size: Images of a step of all ranks.
        clock: Is told when each bucket of gradients was ready and summed.

    Attributes:
        world: The ranks.
        is_local: Whether each rank trains by itself in this step.
        meets: Whether the ranks wait for one another in this step.
    """

    def __init__(
        self, network: Network, config: ParallelConfig, runtime: Runtime, total_steps: int, batch_size: int,
        clock: Clock = NO_CLOCK,
    ) -> None:  # fmt: skip
        self.world = runtime.world
        self._config = config
        self._network = network
        self._dropouts = [module for module in network.modules() if isinstance(module, Dropout)]
        self._local_from = first_changed_step(total_steps) if config.comm == "local_sgd" else total_steps
        self.is_local, self.meets = False, True
        self._local: LocalWeights | None = None
        self._ddp: DistributedDataParallel | None = None
        self._synchronised: Synchronised | None = None
        self._factors: DenseFactors | None = None
        if not self.world.is_alone or self.world.gradients is not None:
            if config.sync_batchnorm:
                self._synchronised = Synchronised(network)
            devices = [runtime.device] if runtime.device.type == "cuda" else None
            method: Method = "fp32" if config.comm == "auto" else config.comm  # auto has been settled before
            if sends_factors(config):
                self._first = self.world.part(batch_size).start
                rows = self.world.largest_part(batch_size)
                self._factors = DenseFactors(network, rows, self.world.gradients, clock)
            size_mb = ONE_BUCKET_MB if method == "powersgd" else config.bucket_mb
            self._ddp = _Wrapped(
                network, self._factors.names if self._factors is not None else (), device_ids=devices,
                process_group=self.world.gradients, bucket_cap_mb=size_mb, gradient_as_bucket_view=True,
            )  # fmt: skip
            # Statistics do nothing in a forward pass that trains; all ranks get rank 0's in settle.
            self._ddp.broadcast_buffers = False
            self._sum = GradientSum(method, config, self.world.gradients, total_steps)
            self._ddp.register_comm_hook(None, clock.timed(self._sum.sum_over_ranks))

    def forward(self, images: Tensor, first: int, size: int) -> Tensor:
        """Logits of some of a step's images.

        Args:
            images: The images.
            first: Where they begin among the images of the step, those of all ranks counted.
            size: How many images the step has.
        """
        for dropout in self._dropouts:
            dropout.rows = (first, size)
        if self._factors is not None:
            self._factors.at(first - self._first)
        module: nn.Module = self._network if self._ddp is None else self._ddp
        logits: Tensor = module(images)
        return logits

    def begin_step(self, step: int, *, is_trial: bool = False) -> None:
        """Tell the number of the step that follows, from 0, by which methods begin that change the result.

        Args:
            step: Counted over the whole training.
            is_trial: Its gradients are not used: it is done plainly, and leaves no trace.
        """
        self.is_local = step >= self._local_from and not is_trial
        self.meets = not self.is_local or (step + 1 - self._local_from) % self._config.local_steps == 0
        if self.is_local and self._local is None:
            trained = [weight for weight in self._network.parameters() if weight.requires_grad]
            self._local = LocalWeights(trained, self.world.gradients)
        if self._ddp is not None:
            self._sum.is_plain = is_trial
            self._sum.at_step(step)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of this rank's share of the step's mean loss.

        Summed over the ranks they are those of the step. A rank that trains by itself for a while takes its own share
        for the whole.
        """
        (loss * self.world.size if self.is_local else loss).backward()  # type: ignore[no-untyped-call]

    def part(self, is_last: bool) -> AbstractContextManager[object]:
        """The context of one of the parts in which a rank's images go through: gradients travel with the last."""
        if self._factors is not None:
            self._factors.part(is_last)
        if self._ddp is None or (is_last and not self.is_local):
            return nullcontext()
        context: AbstractContextManager[object] = self._ddp.no_sync()
        return context

    def end_step(self) -> bool:
        """After the optimiser's step: average the weights where it is time.

        Returns:
            Whether all ranks have the same weights now, so that one of them can save them for all.
        """
        if self.is_local and self.meets:
            self._average()
        return self.meets

    def settle(self, moving: nn.Module | None) -> None:
        """Let every rank have the same weights and BatchNorm statistics: rank 0's, or the mean after local steps.

        Args:
            moving: The moving average of the network, which follows what its rank has.
        """
        if self._ddp is None:
            return
        if self.is_local:
            if not self.meets:
                self._average()
            if moving is not None:
                average([*moving.parameters(), *moving.buffers()], self.world.gradients)
            return
        for network in (self._network, moving):
            for buffer in () if network is None else network.buffers():
                dist.broadcast(buffer, group=self.world.gradients, group_src=0)

    def own_state(self) -> dict[str, Tensor]:
        """What is another on each rank, and a checkpoint must hold of each."""
        return {} if self._ddp is None else self._sum.state()

    def load_own_state(self, tensors: dict[str, Tensor]) -> None:
        """Put back what :meth:`own_state` gave."""
        if self._ddp is not None:
            self._sum.load_state(tensors)

    @property
    def has_own_state(self) -> bool:
        """Whether ranks differ in more than their share of the images."""
        return self._ddp is not None and self._config.comm in ("powersgd", "local_sgd")

    def finish(self) -> None:
        """Leave a network that needs no other rank."""
        for dropout in self._dropouts:
            dropout.rows = None
        if self._synchronised is not None:
            self._synchronised.undo()
        if self._factors is not None:
            self._factors.undo()

    def _average(self) -> None:
        assert self._local is not None
        self._local.average()
        average(self._network.buffers(), self.world.gradients)

    def require_gradients(self) -> None:
        """Refuse weights that take no part in the loss, for which the other ranks would wait for ever.

        Raises:
            ConfigError: With their names.
        """
        if self._ddp is None:
            return
        weights = self._network.named_parameters()
        idle = [name for name, weight in weights if weight.requires_grad and weight.grad is None]
        if idle:
            names = ", ".join(idle[:3]) + (f" and {len(idle) - 3} more" if len(idle) > 3 else "")
            raise ConfigError(f"{names} get no gradient, which several ranks cannot train: freeze or remove them.")
