"""What people see in a browser: the page, and the documents that it links to. Fixed files, read once."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from importlib.metadata import version
from importlib.resources import files

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import Response

from tintype.serving.server.answers import Problem
from tintype.serving.server.guard import COOKIE
from tintype.serving.server.limits import Refusal
from tintype.serving.server.metrics import CONTENT_TYPE
from tintype.serving.server.service import Service

DOCUMENT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'none'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
"""Reports carry their style sheet and their images; the policy inside them allows that one sheet alone. No scripts."""
LONGEST_TOKEN = 4096


class About(BaseModel):
    """What the page needs to know."""

    name: str
    version: str
    classes: list[str]
    threshold: float
    size: int
    max_bytes: int
    report: bool
    card: bool


def page_routes(service: Service) -> APIRouter:
    """The page and its parts, the run's report, the model card, and the metrics."""
    router = APIRouter()

    @router.get("/about", responses={401: {"model": Problem}})
    async def about() -> About:
        """What the model is."""
        classifier, documents = service.classifier, service.documents
        return About(
            name=service.name, version=version("tintype"), classes=list(classifier.classes),
            threshold=classifier.threshold, size=classifier.geometry.size, max_bytes=service.limits.body_bytes,
            report=bool(documents.report), card=bool(documents.card),
        )  # fmt: skip

    @router.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Counters and histograms for Prometheus."""
        return Response(service.metrics.text(), headers={"content-type": CONTENT_TYPE})

    @router.post("/session", status_code=204, include_in_schema=False)
    async def session(request: Request) -> Response:
        """Give a browser a cookie for the token, which is the body."""
        async with service.intake.body(request, LONGEST_TOKEN) as body:
            is_right = service.guard.knows(body.decode("utf-8", "replace"))
        if not is_right:
            raise Refusal(401, "this is not the token.")
        response = Response(status_code=204)
        is_secure = request.url.scheme == "https"
        response.set_cookie(COOKIE, service.guard.cookie, secure=is_secure, httponly=True, samesite="strict")
        return response

    for path, name, kind in (
        ("/", "index.html", "text/html"),
        ("/page.js", "page.js", "text/javascript"),
        ("/page.css", "page.css", "text/css"),
    ):
        content = files("tintype.serving.server").joinpath("page", name).read_bytes()
        router.add_api_route(path, _always(content, kind), methods=["GET"], include_in_schema=False)
    for path, content in (("/report", service.documents.report), ("/card", service.documents.card)):
        if content:
            endpoint = _always(content, "text/html", {"content-security-policy": DOCUMENT_POLICY})
            router.add_api_route(path, endpoint, methods=["GET"], include_in_schema=False)
    return router


def _always(
    content: bytes, kind: str, headers: dict[str, str] | None = None
) -> Callable[[], Coroutine[None, None, Response]]:
    async def endpoint() -> Response:
        return Response(content, headers=headers, media_type=kind)

    return endpoint
