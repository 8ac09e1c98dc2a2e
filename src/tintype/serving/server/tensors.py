"""Tensors as the Open Inference Protocol V2 writes them: as JSON, or as bytes behind the JSON.

The second is the "binary tensor data" extension, a few bytes an image instead of a few a pixel's channel:
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tintype.serving.server.limits import Refusal

INPUT = "images"
OUTPUTS = ("probabilities", "label", "sure")
LONGEST_ID = 200


@dataclass(frozen=True)
class Asked:
    """A request for inference.

    Attributes:
        images: uint8, shape (N, H, W, C).
        id: Given back; None where there was none.
        outputs: Names of the tensors to answer with, and whether each is wanted as bytes.
    """

    images: NDArray[np.uint8]
    id: str | None
    outputs: dict[str, bool]


def parse_request(body: bytes, header_length: str | None, most: int) -> Asked:
    """Read a request.

    Args:
        body: All of it.
        header_length: The header Inference-Header-Content-Length: bytes of the JSON that comes first; None: all of it.
        most: Images.

    Raises:
        Refusal: 400, with what is wrong; 413 for too many images.
    """
    length = len(body) if header_length is None else _whole(header_length, "Inference-Header-Content-Length", len(body))
    try:
        content = json.loads(body[:length])
    except (ValueError, RecursionError):  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise _wrong("the request is not JSON") from None
    if not isinstance(content, dict):
        raise _wrong("the request must be a JSON object")
    inputs = content.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise _wrong(f"inputs must hold one tensor, {INPUT}")
    identifier = content.get("id")
    if identifier is not None and not (isinstance(identifier, str) and len(identifier) <= LONGEST_ID):
        raise _wrong(f"id must be text of at most {LONGEST_ID} characters")
    return Asked(_images(inputs[0], body[length:], most), identifier, _outputs(content))


def _images(tensor: Mapping[str, Any], rest: bytes, most: int) -> NDArray[np.uint8]:
    if tensor.get("name") != INPUT or tensor.get("datatype") != "UINT8":
        raise _wrong(f"the input must be {INPUT} of datatype UINT8")
    shape = tensor.get("shape")
    if (
        not isinstance(shape, list)
        or len(shape) != 4
        or not all(type(side) is int and 0 < side < 2**31 for side in shape)
        or shape[3] not in (1, 3)
    ):
        raise _wrong("shape must be [images, height, width, 3], or 1 for grey images")
    if shape[0] > most:
        raise Refusal(413, f"there are more than {most} images in the request.")
    count = math.prod(shape)
    size = _parameters(tensor).get("binary_data_size")
    if size is not None:
        if type(size) is not int or size != count or len(rest) != count:
            raise _wrong(f"binary_data_size and the bytes behind the JSON must be {count:,}, as the shape says")
        return np.frombuffer(rest, np.uint8).reshape(shape)
    return _numbers(tensor.get("data"), count).reshape(shape)


def _numbers(data: Any, count: int) -> NDArray[np.uint8]:
    """A flat list of numbers, or one nested like the tensor: both are allowed."""
    if not isinstance(data, list):
        raise _wrong("data must be a list of numbers")
    try:
        values = np.asarray(data)
    except (ValueError, OverflowError):  # ragged, nested more deeply than NumPy can, or no number of 64 bits
        raise _wrong("data must be numbers from 0 to 255, as many in each row") from None
    if values.size != count:
        raise _wrong(f"data must be {count:,} numbers, as the shape says. Got {values.size:,}")
    if values.dtype.kind not in "iu" or values.min() < 0 or values.max() > 255:
        raise _wrong("data must be whole numbers from 0 to 255")
    return values.astype(np.uint8)


def _outputs(content: Mapping[str, Any]) -> dict[str, bool]:
    outputs = content.get("outputs")
    if outputs is None:
        is_binary = _parameters(content).get("binary_data_output") is True
        return dict.fromkeys(OUTPUTS, is_binary)
    if not isinstance(outputs, list) or not all(isinstance(output, dict) for output in outputs):
        raise _wrong("outputs must be a list of objects with a name")
    asked = {}
    for output in outputs:
        if output.get("name") not in OUTPUTS:
            raise _wrong(f"outputs are {', '.join(OUTPUTS)}")
        asked[output["name"]] = _parameters(output).get("binary_data") is True
    return asked


def _parameters(holder: Mapping[str, Any]) -> Mapping[str, Any]:
    parameters = holder.get("parameters", {})
    if not isinstance(parameters, dict):
        raise _wrong("parameters must be an object")
    return parameters


def write_response(
    asked: Asked, model: str, classes: Sequence[str], probabilities_NK: NDArray[np.float32], threshold: float
) -> tuple[bytes, int | None]:
    """Write the answer.

    Args:
        asked: What for.
        model: Its name.
        classes: In the order of the probabilities.
        probabilities_NK: Calibrated.
        threshold: Least probability of a sure answer.

    Returns:
        The body, and how many bytes of it are JSON where others follow; None where all are.
    """
    best_N = probabilities_NK.argmax(axis=1).tolist()
    labels = [classes[best] for best in best_N]
    tensors: list[dict[str, Any]] = []
    rest: list[bytes] = []
    for name, is_binary in asked.outputs.items():
        if name == "probabilities":
            shape, datatype = list(probabilities_NK.shape), "FP32"
            data, raw = probabilities_NK.ravel(), probabilities_NK.astype("<f4").tobytes()
        elif name == "sure":
            shape, datatype = [len(best_N)], "BOOL"
            data = probabilities_NK.max(axis=1).astype(np.float64) >= threshold
            raw = data.tobytes()
        else:
            shape, datatype = [len(best_N)], "BYTES"
            data = np.asarray(labels)
            raw = b"".join(struct.pack("<I", len(text)) + text for text in (label.encode() for label in labels))
        tensor: dict[str, Any] = {"name": name, "datatype": datatype, "shape": shape}
        if is_binary:
            tensor["parameters"] = {"binary_data_size": len(raw)}
            rest.append(raw)
        else:
            tensor["data"] = data.tolist()
        tensors.append(tensor)
    content = {"model_name": model, "id": asked.id, "outputs": tensors}
    if asked.id is None:
        del content["id"]
    head = json.dumps(content, ensure_ascii=False).encode()
    return head + b"".join(rest), len(head) if rest else None


def _whole(text: str, name: str, most: int) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 20 and int(text) <= most):
        raise _wrong(f"{name} must be a number of bytes of the request")
    return int(text)


def _wrong(what: str) -> Refusal:
    return Refusal(400, f"{what}.")
