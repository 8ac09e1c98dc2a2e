"""What a client is told about an image."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, Field

from tintype.evaluation.overlay import side_by_side

DECIMALS = 7
"""Of probabilities; as many as float32 has to give."""


class Ranked(BaseModel):
    """A class and its probability."""

    label: str
    probability: float


class Prediction(BaseModel):
    """What the model says about one image."""

    name: str = Field(description="as the client called the file")
    label: str = Field(description="the most probable class; empty where the image cannot be read")
    probability: float = Field(description="of the label, calibrated")
    sure: bool = Field(description="whether the probability reaches the model's threshold")
    probabilities: dict[str, float] | None = Field(None, description="of every class; absent with top")
    top: list[Ranked] | None = Field(None, description="the most probable classes, where top asks for them")
    explanation: str | None = Field(
        None,
        description="PNG, base64: the image and where the network looked; absent unless asked for and there is one",
    )
    error: str = Field("", description="why the image cannot be read")


class Predictions(BaseModel):
    """The answer to a request, in the order of its images."""

    model: str
    threshold: float = Field(description="a less probable label is not sure")
    predictions: list[Prediction]


class Problem(BaseModel):
    """Why a request is not answered."""

    error: str


def describe_label(
    name: str, classes: tuple[str, ...], probabilities_K: NDArray[np.float32], threshold: float, top: int | None
) -> dict[str, Any]:
    """A :class:`Prediction` of an image that was seen, as plain values.

    Args:
        name: As the client called it.
        classes: In the order of the probabilities.
        probabilities_K: Calibrated.
        threshold: Least probability of a sure answer.
        top: Name so many classes; None names all.
    """
    rounded = probabilities_K.astype(np.float64).round(DECIMALS).tolist()
    best = int(probabilities_K.argmax())
    answer: dict[str, Any] = {
        "name": name,
        "label": classes[best],
        "probability": rounded[best],
        "sure": float(probabilities_K[best]) >= threshold,
    }
    if top is None:
        answer["probabilities"] = dict(zip(classes, rounded, strict=True))
    else:
        order = np.argsort(-probabilities_K, kind="stable")[:top].tolist()
        answer["top"] = [{"label": classes[row], "probability": rounded[row]} for row in order]
    return answer


def describe_failure(name: str, reason: str) -> dict[str, Any]:
    """A :class:`Prediction` of an image that cannot be read, as plain values."""
    return {"name": name, "label": "", "probability": 0.0, "sure": False, "error": reason}


def picture(image_HWC: NDArray[np.uint8], map_hw: NDArray[np.float32]) -> str:
    """The image beside itself under the map, the same picture as of ``--explain``, as PNG in base64."""
    buffer = io.BytesIO()
    Image.fromarray(side_by_side(image_HWC, map_hw)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")
