"""The Open Inference Protocol V2, which Triton, KServe and others speak as well.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
"""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from numpy.typing import NDArray
from starlette.responses import JSONResponse, Response

from tintype.serving.server.answers import Problem
from tintype.serving.server.batching import Hold
from tintype.serving.server.limits import Refusal
from tintype.serving.server.predict import in_time
from tintype.serving.server.service import Service
from tintype.serving.server.tensors import INPUT, Asked, parse_request, write_response

HEADER_LENGTH = "inference-header-content-length"
TENSOR = {"type": "object", "required": ["name", "datatype", "shape"]}
BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["inputs"],
                    "properties": {
                        "id": {"type": "string"},
                        "inputs": {"type": "array", "items": TENSOR, "minItems": 1, "maxItems": 1},
                        "outputs": {"type": "array", "items": {"type": "object", "required": ["name"]}},
                    },
                }
            }
        },
    }
}
PROBLEMS: dict[int | str, dict[str, Any]] = {status: {"model": Problem} for status in (400, 401, 404, 408, 413, 503)}


def v2_routes(service: Service) -> APIRouter:
    """Health, metadata and inference on tensors."""
    router = APIRouter(prefix="/v2", responses=PROBLEMS)
    classifier = service.classifier

    def require(name: str) -> None:
        if name != service.name:
            raise Refusal(404, f"there is no such model; this server has {service.name}.")

    @router.get("/health/live")
    async def live() -> dict[str, bool]:
        """Whether the server runs."""
        return {"live": True}

    @router.get("/health/ready")
    async def ready() -> Response:
        """Whether it takes requests: 503 once it was told to stop."""
        return JSONResponse({"ready": not service.is_draining}, 503 if service.is_draining else 200)

    @router.get("")
    async def server() -> dict[str, Any]:
        """What the server is."""
        return {"name": "tintype", "version": version("tintype"), "extensions": ["binary_tensor_data"]}

    @router.get("/models/{name}/ready")
    async def model_ready(name: str) -> Response:
        """Whether the model takes requests."""
        require(name)
        content = {"name": service.name, "ready": not service.is_draining}
        return JSONResponse(content, 503 if service.is_draining else 200)

    @router.get("/models/{name}")
    async def model(name: str) -> dict[str, Any]:
        """What goes in and what comes out; -1 stands for any number."""
        require(name)
        return {
            "name": service.name,
            "versions": [],
            "platform": "tintype_onnx",
            "inputs": [{"name": INPUT, "datatype": "UINT8", "shape": [-1, -1, -1, 3]}],
            "outputs": [
                {"name": "probabilities", "datatype": "FP32", "shape": [-1, len(classifier.classes)]},
                {"name": "label", "datatype": "BYTES", "shape": [-1]},
                {"name": "sure", "datatype": "BOOL", "shape": [-1]},
            ],
        }

    @router.post("/models/{name}/infer", openapi_extra=BODY)
    async def infer(name: str, request: Request) -> Response:
        """Label images that are RGB tensors of any one size."""
        require(name)
        with service.batcher.hold() as held:
            asked, images = await _read(service, request, held)
            async with in_time(service):
                seen = await held.see(images)
        probabilities_NK = np.stack([item.probabilities for item in seen])
        _count(service, probabilities_NK)
        content, head = write_response(asked, service.name, classifier.classes, probabilities_NK, classifier.threshold)
        if head is None:
            return Response(content, media_type="application/json")
        return Response(content, headers={HEADER_LENGTH: str(head)}, media_type="application/octet-stream")

    return router


async def _read(service: Service, request: Request, held: Hold) -> tuple[Asked, list[NDArray[np.uint8]]]:
    """What is asked for, without the images, and the images as the network sees them; the body is forgotten."""
    length = request.headers.get(HEADER_LENGTH)
    most = service.limits.text_bytes if length is None else service.limits.body_bytes
    async with service.intake.body(request, most) as body, in_time(service):
        run = service.decoder.run_alone if length is None else service.decoder.run
        asked = await run(parse_request, body, length, service.limits.images)
        held.grow(len(asked.images))
        decoded = await service.decoder.decode(list(asked.images))
    reasons = [image for image in decoded if isinstance(image, str)]
    if reasons:
        raise Refusal(400, f"{reasons[0]}.")
    images = [image for image in decoded if not isinstance(image, str)]
    return replace(asked, images=np.empty((0, 0, 0, 3), np.uint8)), images


def _count(service: Service, probabilities_NK: np.ndarray[Any, np.dtype[np.float32]]) -> None:
    for probabilities_K in probabilities_NK:
        best = int(probabilities_K.argmax())
        is_sure = float(probabilities_K[best]) >= service.classifier.threshold
        service.metrics.labelled(service.classifier.classes[best], is_sure)
