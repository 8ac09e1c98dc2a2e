"""From a run's network to ONNX: from whole images of the model's own size to calibrated probabilities."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import onnx
import torch
from onnx import GraphProto, ModelProto
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from tintype.data.pixels import Geometry
from tintype.errors import RunError
from tintype.evaluation.temperature import SMALLEST_PROBABILITY
from tintype.models.network import Network
from tintype.serving.model import Model
from tintype.serving.resize import IR_VERSION, OPSET, RESIZED

PROBABILITIES = "probabilities"

EXAMPLES = 23
"""Images that a network is traced with. PyTorch takes axes of one length for one axis, and few have this length."""

_GREY = (19595, 38470, 7471)  # of 65,536, as in Pillow's Convert.c


class Answers(nn.Module):
    """Calibrated probabilities of images of the model's own size; what a run's network and its settings say together.

    Args:
        model: The run's model, in inference mode.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.network = model.network
        self.temperature = model.temperature
        self.flips = bool(model.config.flip_average)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """uint8 images of shape (N, C, S, S) to shape (N, K)."""
        if self.flips:
            both = torch.cat([images_NCHW, images_NCHW.flip(3)])
            probabilities_2NK = self.network.probabilities(self.network(both))
            probabilities_NK = probabilities_2NK.view(2, -1, probabilities_2NK.shape[1]).mean(dim=0)
        else:
            probabilities_NK = self.network.probabilities(self.network(images_NCHW))
        if self.temperature == 1:
            return probabilities_NK
        return torch.softmax(probabilities_NK.clamp(min=SMALLEST_PROBABILITY).log() / self.temperature, dim=1)


class AnswersInRgb(Answers):
    """:class:`Answers` of RGB images as they lie in files, uint8, (N, S, S, 3)."""

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self.channels = model.geometry.channels

    def forward(self, images_NHWC: Tensor) -> Tensor:
        """uint8 images of shape (N, S, S, 3) to shape (N, K)."""
        return super().forward(planes(images_NHWC, self.channels))


def planes(images_NHWC: Tensor, channels: int) -> Tensor:
    """RGB images, uint8 (N, S, S, 3), as a network takes them, (N, C, S, S): grey as Pillow makes it where C is 1."""
    if channels == 3:
        return images_NHWC.permute(0, 3, 1, 2).contiguous()
    red, green, blue = (images_NHWC[..., number].int() * weight for number, weight in enumerate(_GREY))
    return ((red + green + blue + 32768) // 65536).to(torch.uint8)[:, None]


def plain_layout(network: Network) -> Network:
    """The same network with its weights in the usual order in memory.

    PyTorch's own code for weights with the channels last, which trains and answers faster, re-strides results by
    operators that ONNX does not have.
    """
    for tensor in (*network.parameters(), *network.buffers()):
        # Cloned, since weights of 1 x 1 pixels count as contiguous in either order.
        tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
    return network.eval().requires_grad_(False)


def captured(module: nn.Module, *inputs: Tensor) -> ExportedProgram:
    """A module as a program without Python, for any number of images.

    Args:
        module: In inference mode.
        inputs: :data:`EXAMPLES` images, and as many of whatever else it takes.

    Raises:
        RunError: The module's code cannot be followed, or depends on the number of images.
    """
    batch = Dim("N", min=1)
    try:
        with quiet_exporter():
            program = torch.export.export(module, inputs, dynamic_shapes=tuple({0: batch} for _ in inputs))
    except Exception as error:  # users' modules are run here, and raise whatever they like
        raise RunError(
            f"the network cannot be exported: PyTorch cannot follow its code ({first_line(error)}). torch.export must "
            "be able to trace it for any number of images."
        ) from None
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # whose lines name this machine's folders
    return program


def as_onnx(program: ExportedProgram, inputs: list[str], output: str) -> ModelProto:
    """A program as an ONNX model.

    Args:
        program: From :func:`captured`.
        inputs: What its inputs are called.
        output: What its result is called.

    Raises:
        RunError: ONNX has no operator for something in it.
    """
    try:
        with quiet_exporter():
            made = torch.onnx.export(
                program, (), dynamo=True, input_names=inputs, output_names=[output], opset_version=OPSET,
                external_data=False, verbose=False,
            )  # fmt: skip
            assert made is not None
            model: ModelProto = made.model_proto
    except Exception as error:  # the exporter's errors, and protobuf's for more than 2 GiB
        raise RunError(f"the network cannot be written as ONNX: {first_line(error)}.") from None
    model.ir_version = IR_VERSION
    _clean(model.graph)
    return model


def network_model(program: ExportedProgram) -> ModelProto:
    """The ONNX model of an :class:`Answers`, from ``resized`` to ``probabilities``."""
    return as_onnx(program, [RESIZED], PROBABILITIES)


def joined(resize: ModelProto, network: ModelProto) -> ModelProto:
    """One model from images of any size to probabilities.

    Args:
        resize: From :func:`tintype.serving.resize.resize_model`.
        network: From :func:`network_model`, or its quantised form.
    """
    prefixed = onnx.compose.add_prefix(network, "network/", rename_inputs=False, rename_outputs=False)
    model = onnx.compose.merge_models(
        resize, prefixed, [(RESIZED, RESIZED)], name="tintype", producer_name="tintype", doc_string=""
    )
    model.graph.doc_string = ""
    return model


def example_images(geometry: Geometry, channels: int) -> Tensor:
    """Images to trace with: uint8, (N, S, S, C)."""
    return torch.zeros((EXAMPLES, geometry.size, geometry.size, channels), dtype=torch.uint8)


def first_line(error: BaseException) -> str:
    """What an error of a library says, on one line and without its last full stop."""
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return (lines[0] if lines else type(cause).__name__).rstrip(".")


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Keep the exporter's warnings about PyTorch's own code to itself; they are about no one's model."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _clean(graph: GraphProto) -> None:
    """Take away what tells of the machine that it was made on, and call the number of images N throughout."""
    symbol = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for node in graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*graph.input, *graph.output, *graph.value_info):
        del value.metadata_props[:]
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param == symbol:
                axis.dim_param = "N"
    for tensor in graph.initializer:
        del tensor.metadata_props[:]
