"""Heads of one shape whose weights lie stacked in the same tensors, so that all are trained by the same few calls.

The mathematics of each head is that of ``nn.Linear``, ``nn.ReLU``, ``nn.Dropout`` and ``torch.optim.AdamW``. No sum
runs over heads, so that none can disturb another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

BETAS = (0.9, 0.99)
EPSILON = 1e-8
"""AdamW's, as in :func:`tintype.training.optim.make_optimizer`."""

CACHED_VALUES = 2**16
"""Weights are updated in parts of about this many, which stay in a core's cache from one step of AdamW to the next."""


@dataclass(frozen=True)
class HeadSetting:
    """How one head is built and trained.

    Attributes:
        learning_rate: At the start; it falls to 0 along half a cosine.
        weight_decay: Decoupled (AdamW's); biases have none.
        width: Units of a hidden layer with ReLU; 0: none.
        dropout: Share of the hidden layer's values, without one of the features, that is dropped in training.
        seed: Decides on the initial weights and on what is dropped.
    """

    learning_rate: float
    weight_decay: float
    width: int
    dropout: float
    seed: int

    @property
    def layers(self) -> str:
        """What stands before the output layer, in the layer language; empty for nothing."""
        hidden = f"dense {self.width} relu\n" if self.width else ""
        return hidden + (f"dropout {self.dropout:g}\n" if self.dropout else "")

    @property
    def stack(self) -> tuple[int, float, int]:
        """Heads with the same can be stacked: one shape, and the same values dropped."""
        return self.width, self.dropout, self.seed if self.dropout else 0


class Stack:
    """M heads of one shape.

    Args:
        settings: Theirs; all have the same :attr:`HeadSetting.stack`.
        features: F.
        units: C, units of the output layer.
        device: Where they are trained.

    Attributes:
        tensors: ``output.weight`` (M, C, F or H), ``output.bias`` (M, C), and with a hidden layer ``hidden.weight``
            (M, H, F) and ``hidden.bias`` (M, H).
    """

    def __init__(self, settings: Sequence[HeadSetting], features: int, units: int, device: torch.device) -> None:
        self.width, self.dropout, self.seed = settings[0].stack
        assert all(setting.stack == settings[0].stack for setting in settings)
        self.heads, self.units = len(settings), units
        starts = [_initial(setting, features, units) for setting in settings]
        self.tensors = {
            name: torch.stack([start[name] for start in starts]).to(device).requires_grad_() for name in starts[0]
        }
        self._rates_M = torch.tensor([setting.learning_rate for setting in settings], device=device)
        self._decays_M = torch.tensor([setting.weight_decay for setting in settings], device=device)
        self._steps = 0
        self._moments = {name: (torch.zeros_like(t), torch.zeros_like(t)) for name, t in self.tensors.items()}

    def logits(self, features_BF: Tensor, step: int | None = None) -> Tensor:
        """Logits of every head, (B, M, C).

        Args:
            features_BF: A batch.
            step: The number of the training step, for which dropout draws; None: nothing is dropped.
        """
        weight, bias = self.tensors["output.weight"], self.tensors["output.bias"]
        if not self.width:
            if self.dropout and step is not None:
                features_BF = features_BF * self._kept(features_BF, step)
            flat = linear(features_BF, weight.flatten(0, 1), bias.flatten())
            return flat.view(len(features_BF), self.heads, self.units)
        hidden_weight, hidden_bias = self.tensors["hidden.weight"], self.tensors["hidden.bias"]
        hidden = linear(features_BF, hidden_weight.flatten(0, 1), hidden_bias.flatten()).relu()
        hidden_BMH = hidden.view(len(features_BF), self.heads, self.width)
        if self.dropout and step is not None:
            hidden_BMH = hidden_BMH * self._kept(hidden_BMH[:, 0], step)[:, None]
        return torch.baddbmm(bias[:, None], hidden_BMH.transpose(0, 1), weight.transpose(1, 2)).transpose(0, 1)

    def _kept(self, like_BD: Tensor, step: int) -> Tensor:
        """0 for what is dropped, else the inverse of the share that is kept; a function of seed and step alone."""
        count = like_BD.numel()
        # 16 random bits decide on a value, so the share is met to 1 in 65,536; floats take five times as long to draw.
        drawn = np.random.SFC64([self.seed, step]).random_raw(-(-count // 4)).view(np.uint16)[:count]
        kept = torch.from_numpy(drawn >= round(self.dropout * 2**16)).view(like_BD.shape)
        return kept.to(like_BD.device, torch.float32).div_(1 - self.dropout)

    @torch.no_grad()
    def step(self, share: float) -> None:
        """One step of AdamW with the gradients that the tensors hold.

        Args:
            share: Of each head's learning rate.
        """
        self._steps += 1
        # The corrections of both moments for their start at 0 go into the rate and epsilon: a pass less.
        root = math.sqrt(1 - BETAS[1] ** self._steps)
        rates_M, epsilon = self._rates_M * share, EPSILON * root
        steps_M = -rates_M * root / (1 - BETAS[0] ** self._steps)
        for name, tensor in self.tensors.items():
            assert tensor.grad is not None
            width = tensor.shape[-1]
            rows = tensor[0].numel() // width
            shrinking_M = 1 - rates_M * self._decays_M if name.endswith("weight") else torch.ones_like(rates_M)
            factors = [values_M.repeat_interleave(rows)[:, None] for values_M in (shrinking_M, steps_M)]
            tables = [table.view(-1, width) for table in (tensor, tensor.grad, *self._moments[name])]
            parts = [torch.split(table, max(1, CACHED_VALUES // width)) for table in (*tables, *factors)]
            for weight, gradient, first, second, shrinking, step in zip(*parts, strict=True):
                first.lerp_(gradient, 1 - BETAS[0])
                second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
                torch.sqrt(second, out=gradient).add_(epsilon)
                torch.div(first, gradient, out=gradient)
                weight.mul_(shrinking).addcmul_(gradient, step)
            tensor.grad = None

    def copy(self) -> dict[str, Tensor]:
        """The tensors as they are."""
        return {name: tensor.detach().clone() for name, tensor in self.tensors.items()}


def _initial(setting: HeadSetting, features: int, units: int) -> dict[str, Tensor]:
    """Weights as :func:`tintype.models.layers.build_layers` draws them: Glorot uniform, zero biases."""
    generator = torch.Generator().manual_seed(setting.seed)
    sizes = [("hidden", features, setting.width)] if setting.width else []
    tensors = {}
    for name, inputs, outputs in [*sizes, ("output", setting.width or features, units)]:
        tensors[f"{name}.weight"] = nn.init.xavier_uniform_(torch.empty(outputs, inputs), generator=generator)
        tensors[f"{name}.bias"] = torch.zeros(outputs)
    return tensors
