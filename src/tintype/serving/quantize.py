"""A network in 8-bit integers: static quantisation by onnxruntime, its ranges taken from training images."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from tintype.errors import RunError
from tintype.serving.graph import first_line
from tintype.serving.resize import IR_VERSION, RESIZED

WEIGHED = ("Conv", "Gemm", "MatMul", "ConvTranspose")
"""Operators with weights, which is where the time goes."""

QUANTIZED = (
    *WEIGHED, "Add", "Mul", "Relu", "Clip", "LeakyRelu", "Sigmoid", "MaxPool", "AveragePool", "GlobalAveragePool",
    "Concat", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Pad",
)  # fmt: skip
"""Operators that work on integers; norms and softmax stay in fp32."""

_AT_ONCE = 8


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime's classes have no types
    """Hands out images in small batches."""

    def __init__(self, images_NCHW: NDArray[np.uint8]) -> None:
        self._batches: Iterator[NDArray[np.uint8]] = iter(
            images_NCHW[start : start + _AT_ONCE] for start in range(0, len(images_NCHW), _AT_ONCE)
        )

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        """The next batch, None after the last."""
        batch = next(self._batches, None)
        return None if batch is None else {RESIZED: batch}


def quantized(network: ModelProto, images_NHWC: NDArray[np.uint8]) -> ModelProto:
    """The network with 8-bit weights, a scale a channel, and 8-bit activations.

    The standardisation before the first weights stays in fp32, since it makes fractions of whole grey levels, and so do
    the output layer and what follows: they cost nothing and decide on the probabilities.

    Args:
        network: From images of the model's own size to probabilities.
        images_NHWC: Training images of that size, at least one.

    Raises:
        RunError: onnxruntime cannot quantise it.
    """
    images_NCHW = np.ascontiguousarray(images_NHWC.transpose(0, 3, 1, 2))
    with tempfile.TemporaryDirectory() as name:
        given, prepared, result = (Path(name) / file for file in ("given.onnx", "prepared.onnx", "int8.onnx"))
        onnx.save(network, given)  # from memory, onnxruntime would move the weights of `network` into files
        try:
            quant_pre_process(given, prepared, skip_symbolic_shape=True)
            quantize_static(
                prepared, result, _Reader(images_NCHW),
                quant_format=QuantFormat.QDQ, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
                per_channel=True, reduce_range=True, calibrate_method=CalibrationMethod.MinMax,
                op_types_to_quantize=list(QUANTIZED), nodes_to_exclude=_in_fp32(onnx.load(prepared).graph),
            )  # fmt: skip
        except Exception as error:  # onnxruntime raises whatever comes
            raise RunError(f"the network cannot be quantised: {first_line(error)}. Leave --int8 out.") from None
        model = onnx.load(result)
    model.ir_version = IR_VERSION
    used = {node.domain for node in model.graph.node}
    versions = [item for item in model.opset_import if item.domain in used]
    del model.opset_import[:]
    model.opset_import.extend(versions)
    return model


def _in_fp32(graph: GraphProto) -> list[str]:
    """Names of the operators before the first with weights, and from the last with weights on."""
    weighed = [place for place, node in enumerate(graph.node) if node.op_type in WEIGHED]
    if len(weighed) < 2:
        raise ValueError("it has fewer than two layers with weights, and the last one stays as it is")
    return _names(graph, [*range(weighed[0]), *range(weighed[-1], len(graph.node))])


def _names(graph: GraphProto, places: Sequence[int]) -> list[str]:
    return [graph.node[place].name for place in places]
