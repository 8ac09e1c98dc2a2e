"""The one network class: images in, logits out, preprocessing inside."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

BACKBONE = "backbone"
"""Name of the backbone among the modules of a body."""

OutputKind = Literal["sigmoid", "softmax"]

LEAST_DEVIATION = 1 / 255
"""A mean or pixel that varies by less than one grey level over the training images says nothing. Dividing by its
deviation gives infinities and NaN (keras#1880), so it is divided by 1 instead."""


class Network(nn.Module):
    """A body, a linear head, and the standardisation of the images as part of the network.

    The preprocessing travels with the weights, so that nobody can forget it or apply it twice.

    Args:
        body: Maps standardised float images (N, C, H, W) to features (N, F).
        head: Maps features to logits; ``nn.Identity()`` if the body does so itself.
        output: ``sigmoid``: one logit for the second of two classes; ``softmax``: a logit per class.
        input_shape: (C, H, W).
        mean: Mean of the training images in the scale 0..1: one figure per channel, or per value (C, H, W).
            None: 0.
        std: Standard deviation likewise. None: 1.
        l2: Name of a parameter (of this network) to the factor of its L2 penalty.

    Attributes:
        mean: Buffer of shape (C, 1, 1) or (C, H, W), scale 0..1.
        std: Likewise.
        frozen: Names of the modules that do not train.
        held: Names of BatchNorms that train, but never use a batch's statistics.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        body: nn.Module,
        head: nn.Module,
        output: OutputKind,
        input_shape: tuple[int, int, int],
        mean: ArrayLike | Tensor | None = None,
        std: ArrayLike | Tensor | None = None,
        l2: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.input_shape = input_shape
        self.output: OutputKind = output
        self.body = body
        self.head = head
        self.l2 = dict(l2 or {})
        self.frozen: tuple[str, ...] = ()
        self.held: tuple[str, ...] = ()
        self.register_buffer("mean", statistic(mean, 0.0, input_shape))
        self.register_buffer("std", statistic(std, 1.0, input_shape))
        if self.mean.shape != self.std.shape:
            raise ValueError(f"mean and std must have one shape. Got {self.mean.shape} and {self.std.shape}.")

    @property
    def zero_deviations(self) -> int:
        """How many channels or pixels do not vary in the training images and are therefore not divided."""
        return int((self.std < LEAST_DEVIATION).sum())

    def place(self, device: torch.device | None = None) -> Self:
        """Put weights of four axes in memory with the channels last, as convolutions are fastest.

        ``Module.to`` with that order fails on the tensors of five axes that Swin keeps.

        Args:
            device: Where everything is moved first; None leaves it where it is.
        """
        if device is not None:
            self.to(device)
        for tensor in (*self.parameters(), *self.buffers()):
            if tensor.ndim == 4:
                tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
        return self

    def standardize(self, images_NCHW: Tensor) -> Tensor:
        """Bring images of 0..255 to mean 0 and deviation 1.

        Args:
            images_NCHW: uint8 or float, scale 0..255.

        Returns:
            fp32, same shape and memory format.
        """
        return standardized(images_NCHW, self.mean, self.std)

    def features(self, images_NCHW: Tensor) -> Tensor:
        """What the head sees, shape (N, F)."""
        features_NF: Tensor = self.body(self.standardize(images_NCHW))
        return features_NF

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Logits of shape (N, K), or (N, 1) for a sigmoid unit, of uint8 or float images of 0..255."""
        logits_NK: Tensor = self.head(self.features(images_NCHW))
        return logits_NK

    def probabilities(self, logits_NK: Tensor) -> Tensor:
        """Probability of each class, fp32, shape (N, K); two columns for a sigmoid unit."""
        logits_NK = logits_NK.float()
        if self.output == "softmax":
            return logits_NK.softmax(dim=1)
        return torch.cat([torch.sigmoid(-logits_NK), torch.sigmoid(logits_NK)], dim=1)

    def freeze(self, names: Iterable[str]) -> None:
        """Let these modules, and no others, be frozen: no gradient, and always in inference mode.

        A frozen BatchNorm keeps its statistics and never uses those of a batch, so that the frozen part gives the
        same output in training and in evaluation (keras#9522).
        """
        self.requires_grad_(True)
        self.frozen = tuple(names)
        for name in self.frozen:
            self.get_submodule(name).requires_grad_(False)
        self.train(self.training)

    def hold_folded_statistics(self) -> int:
        """Keep each BatchNorm whose statistics were folded into its weights from ever using those of a batch.

        Files made from deployed networks hold the means 0 and the variances 1 throughout: such a layer is a scale and
        a shift. With a batch's statistics it would be another network from the first step on.

        Returns:
            How many there are.
        """
        self.held = tuple(name for name, module in self.named_modules() if _is_folded(module))
        self.train(self.training)
        return len(self.held)

    def train(self, mode: bool = True) -> Self:
        """Set the training mode of everything that is neither frozen nor held."""
        super().train(mode)
        for name in (*self.frozen, *self.held):
            self.get_submodule(name).eval()
        return self

    def l2_penalties(self) -> list[tuple[nn.Parameter, float]]:
        """Parameters with the factor of their penalty; the loss grows by ``factor * sum(parameter ** 2)``."""
        return [(self.get_parameter(name), factor) for name, factor in self.l2.items()]

    def reset_classifier(self, classes: int, output: Literal["auto", "softmax"] = "auto") -> None:
        """Put a fresh head for ``classes`` classes on the same body.

        Raises:
            ValueError: The network has no head of its own (a user's module).
        """
        if not isinstance(self.head, nn.Linear):
            raise ValueError("only a network with a linear head can get a new one; this one's module makes the logits")
        self.output = output_kind(classes, output)
        weight = self.head.weight
        self.head = make_head(self.head.in_features, classes, self.output).to(weight.device, weight.dtype)


class Tail(Network):
    """The part of a network behind a cut, which shares its parameters: features in, logits out.

    Args:
        network: The whole.
        back: What lies behind the cut in the backbone; None where the whole backbone lies before it.
        feature_shape: Shape of what crosses the cut, without the batch axis.
    """

    def __init__(self, network: Network, back: nn.Module | None, feature_shape: tuple[int, ...]) -> None:
        assert isinstance(network.body, nn.Sequential)
        layers = OrderedDict((name, part) for name, part in network.body.named_children() if name != BACKBONE)
        if back is not None:
            layers = OrderedDict([(BACKBONE, back), *layers.items()])
        super().__init__(nn.Sequential(layers), network.head, network.output, network.input_shape, l2=network.l2)
        self.feature_shape = feature_shape
        present = {name for name, _ in self.named_modules()}
        self.frozen = tuple(name for name in network.frozen if name in present)
        self.held = tuple(name for name in network.held if name in present)

    def standardize(self, images_NCHW: Tensor) -> Tensor:
        """Features are taken as they are, in fp32."""
        return images_NCHW.float()


def _is_folded(module: nn.Module) -> bool:
    if not isinstance(module, nn.BatchNorm2d) or module.running_mean is None or module.running_var is None:
        return False
    # Some have the variance 1 - eps, so that the layer divides by 1.
    is_unit = ((module.running_var - 1).abs() <= 1e-3).all()
    return bool((module.running_mean == 0).all() and is_unit)


def standardized(images_NCHW: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Images of 0..255 with the mean taken away and divided by the deviation (both in the scale 0..1), in fp32."""
    std = torch.where(std < LEAST_DEVIATION, 1.0, std)
    scale, shift = 1 / (255 * std[None]), (-mean / std)[None]
    # Figures per pixel decide on the memory format of the result, too. One fused pass in fp32; rounding the
    # images to bf16 here, under autocast, was slower than leaving it to the first convolution.
    scale, shift = (figure.contiguous(memory_format=torch.channels_last) for figure in (scale, shift))
    return torch.addcmul(shift, images_NCHW.float(), scale)


def output_kind(classes: int, output: Literal["auto", "softmax"]) -> OutputKind:
    """One sigmoid unit for two classes unless softmax is asked for."""
    return "sigmoid" if classes == 2 and output == "auto" else "softmax"


def make_head(features: int, classes: int, output: OutputKind) -> nn.Linear:
    """The output layer: one unit for ``sigmoid``, else one per class; Glorot uniform, zero bias."""
    head = nn.Linear(features, 1 if output == "sigmoid" else classes)
    nn.init.xavier_uniform_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def statistic(value: ArrayLike | Tensor | None, default: float, input_shape: tuple[int, int, int]) -> Tensor:
    """A mean or deviation as an fp32 tensor of shape (C, 1, 1) or (C, H, W).

    Raises:
        ValueError: It has neither a figure per channel nor one per value of the image.
    """
    channels = input_shape[0]
    if value is None:
        return torch.full((channels, 1, 1), default)
    tensor = value.detach().float().cpu() if isinstance(value, Tensor) else torch.tensor(np.asarray(value, np.float32))
    if tuple(tensor.shape) == input_shape:
        return tensor.clone()
    if tuple(tensor.shape) in ((channels,), (channels, 1, 1)):
        return tensor.reshape(channels, 1, 1).clone()
    raise ValueError(f"must have shape ({channels},) or {input_shape}. Got {tuple(tensor.shape)}.")
