"""Where the network looks, as an ONNX model: the maps of :mod:`tintype.evaluation.attention` without autograd.

The forward pass and the backward pass from the last map on are traced together, so that the gradient becomes ordinary
operators.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from tintype.errors import RunError
from tintype.evaluation.attention import NoMap, class_maps, find_place
from tintype.serving.graph import (
    EXAMPLES,
    as_onnx,
    captured,
    example_images,
    first_line,
    plain_layout,
    planes,
    quiet_exporter,
)
from tintype.serving.model import Model

IMAGES, CLASSES, MAPS = "images", "classes", "maps"


def maps_model(model: Model, image_HWC: NDArray[np.uint8]) -> ModelProto | str:
    """A model from ``images``, uint8 (N, S, S, 3), and ``classes``, int64 (N,), to ``maps``, fp32 (N, h, w), 0 to 1.

    Args:
        model: The run's model; it stays as it is.
        image_HWC: An image as the model sees it, (S, S, C), by which the last map is found.

    Returns:
        The ONNX model, or in a few words why there is none.
    """
    network = plain_layout(deepcopy(model.network))
    for module in network.modules():
        if getattr(module, "inplace", False):
            # Traced, what changes its input writes through strides that ONNX does not have.
            module.inplace = False  # type: ignore[assignment]
    channels = model.geometry.channels
    place = find_place(network, torch.from_numpy(image_HWC.copy()).permute(2, 0, 1))
    if isinstance(place, NoMap):
        return place.reason
    images, classes = example_images(model.geometry, 3), torch.zeros(EXAMPLES, dtype=torch.int64)

    def maps(images_NHWC: Tensor, classes_N: Tensor) -> Tensor:
        found = class_maps(network, planes(images_NHWC, channels), classes_N, place)
        assert isinstance(found, Tensor), found
        return found

    try:
        with quiet_exporter():
            traced = make_fx(
                maps, decomposition_table={torch.ops.aten.convolution_backward.default: _input_gradient},
                tracing_mode="symbolic", _allow_non_fake_inputs=True,
            )(images, classes)  # fmt: skip
        return as_onnx(captured(traced, images, classes), [IMAGES, CLASSES], MAPS)
    except RunError as error:
        return str(error)
    except Exception as error:  # PyTorch's tracer, on any network there is
        return f"the gradient cannot be traced: {first_line(error)}"


def _input_gradient(
    gradient: Tensor, given: Tensor, weight: Tensor, _bias_sizes: Any, stride: list[int], padding: list[int],
    dilation: list[int], is_transposed: bool, _output_padding: list[int], groups: int, wanted: list[bool],
) -> Any:  # fmt: skip
    """The gradient of a convolution in its input, as a transposed convolution; nothing else of it is asked for."""
    if is_transposed or wanted[1] or wanted[2]:
        return NotImplemented
    reached = [
        (out - 1) * step - 2 * pad + spread * (side - 1) + 1
        for out, step, pad, spread, side in zip(
            gradient.shape[2:], stride, padding, dilation, weight.shape[2:], strict=True
        )
    ]
    beyond = [int(side - known) for side, known in zip(given.shape[2:], reached, strict=True)]
    result = torch.ops.aten.convolution(gradient, weight, None, stride, padding, dilation, True, beyond, groups)
    return result, None, None
