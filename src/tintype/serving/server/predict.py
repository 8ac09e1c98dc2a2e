"""``POST /predict``: images in, labels out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Request
from numpy.typing import NDArray
from starlette.responses import Response

from tintype.serving.server.answers import (
    Predictions,
    Problem,
    describe_failure,
    describe_label,
    picture,
)
from tintype.serving.server.batching import Hold, Seen
from tintype.serving.server.decoding import Decoded
from tintype.serving.server.limits import Refusal
from tintype.serving.server.service import Service
from tintype.serving.server.uploads import Upload, split_body

BINARY = {"schema": {"type": "string", "format": "binary"}}
BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"images": {"type": "array", "items": {"type": "string", "format": "binary"}}},
                }
            },
            "image/*": BINARY,
            "application/octet-stream": BINARY,
        },
    }
}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "The form is damaged."},
    401: {"model": Problem, "description": "The token is missing or wrong."},
    408: {"model": Problem, "description": "The request came too slowly."},
    413: {"model": Problem, "description": "The request is too large, or holds too many images."},
    415: {"model": Problem, "description": "Neither a form nor an image."},
    422: {"model": Predictions | Problem, "description": "No image can be read; or an option has no such value."},
    503: {"model": Problem, "description": "Too much at once; Retry-After says when to try again."},
}


def predict_routes(service: Service) -> APIRouter:
    """The route of people and scripts that have image files."""
    router = APIRouter()

    @router.post("/predict", response_model=Predictions, responses=PROBLEMS, openapi_extra=BODY)
    async def predict(
        request: Request,
        top: Annotated[int | None, Query(ge=1, description="name so many classes instead of all")] = None,
        explain: Annotated[bool, Query(description="with a picture of where the network looked")] = False,
    ) -> Response:
        """Label images: several as files of a form, or one as the body."""
        with service.batcher.hold() as held:
            names, decoded = await _read(service, request, held)
            async with in_time(service):
                seen = await held.see([image for image in decoded if not isinstance(image, str)], explain)
                answers = await _describe(service, names, decoded, seen, top)
        content = {"model": service.name, "threshold": service.classifier.threshold, "predictions": answers}
        status = 200 if seen else 422
        return Response(json.dumps(content, ensure_ascii=False), status, media_type="application/json")

    return router


async def _read(service: Service, request: Request, held: Hold) -> tuple[list[str], list[Decoded]]:
    """The names of a request's images, and the images; its body is forgotten."""
    async with service.intake.body(request, service.limits.body_bytes) as body, in_time(service):
        held.grow(1)
        uploads, first = await service.decoder.run(_begin, service, body, request.headers.get("content-type", ""))
        held.grow(len(uploads) - 1)
        contents = [upload.content for upload in uploads]
        if first is None:
            first = await service.decoder.decode_large(contents[0])
        return [upload.name for upload in uploads], [first, *await service.decoder.decode(contents[1:])]


def _begin(service: Service, body: bytes, content_type: str) -> tuple[list[Upload], Decoded | None]:
    """The images of a request, and the first of them decoded at once, unless it is large.

    Most requests have one image, which then changes threads once.
    """
    uploads = split_body(body, content_type, service.limits.images)
    return uploads, service.decoder.decode_unless_large(uploads[0].content)


@asynccontextmanager
async def in_time(service: Service) -> AsyncIterator[None]:
    """Give up where a step takes too long.

    Raises:
        Refusal: 503.
    """
    try:
        async with asyncio.timeout(service.limits.answer_seconds):
            yield
    except TimeoutError:
        raise Refusal(503, "the server is too busy to answer in time; try again.", 5) from None


async def _describe(
    service: Service,
    names: Sequence[str],
    decoded: Sequence[NDArray[np.uint8] | str],
    seen: Sequence[Seen],
    top: int | None,
) -> list[dict[str, Any]]:
    """A :class:`Prediction` for each image; ``seen`` has one item for each that could be decoded."""
    classifier = service.classifier
    rest = iter(seen)
    answers = []
    for name, image in zip(names, decoded, strict=True):
        if isinstance(image, str):
            service.metrics.unreadable()
            answers.append(describe_failure(name, image))
            continue
        found = next(rest)
        answer = describe_label(name, classifier.classes, found.probabilities, classifier.threshold, top)
        service.metrics.labelled(answer["label"], answer["sure"])
        if found.map is not None:
            answer["explanation"] = await service.decoder.run(picture, image, found.map)
        answers.append(answer)
    return answers
