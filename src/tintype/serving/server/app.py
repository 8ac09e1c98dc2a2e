"""The application: every route, and what becomes of errors."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from tintype.serving.server.gate import Gate
from tintype.serving.server.limits import ClientGoneError, Refusal
from tintype.serving.server.pages import page_routes
from tintype.serving.server.predict import predict_routes
from tintype.serving.server.service import Service
from tintype.serving.server.v2 import v2_routes

CLIENT_CLOSED = 499
"""Nobody receives this status; it is how such requests are counted (nginx's number)."""


def make_app(service: Service) -> FastAPI:
    """An ASGI application around a service, which it starts and closes.

    There is a description at ``/openapi.json``, but no page that shows it: FastAPI's own would load its scripts from
    elsewhere.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        service.close()

    app = FastAPI(
        title=f"tintype: {service.name}", version=version("tintype"), docs_url=None, redoc_url=None, lifespan=lifespan,
        redirect_slashes=False,
    )  # fmt: skip
    app.add_middleware(Gate, service=service)
    app.include_router(predict_routes(service))
    app.include_router(v2_routes(service))
    app.include_router(page_routes(service))
    _answer_errors(app)
    return app


def _answer_errors(app: FastAPI) -> None:
    """One line of JSON for whatever goes wrong; no client sees more of the program than that."""

    @app.exception_handler(Refusal)
    async def refused(_: Request, refusal: Refusal) -> Response:
        headers = {} if refusal.retry_after is None else {"retry-after": str(refusal.retry_after)}
        return JSONResponse({"error": str(refusal)}, refusal.status, headers)

    @app.exception_handler(ClientGoneError)
    async def gone(_: Request, _error: ClientGoneError) -> Response:
        return Response(status_code=CLIENT_CLOSED)

    @app.exception_handler(HTTPException)
    async def no_route(_: Request, error: HTTPException) -> Response:
        return JSONResponse({"error": f"{error.detail}."}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def wrong_option(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return JSONResponse({"error": f"{first['loc'][-1]}: {first['msg']}."}, 422)

    @app.exception_handler(Exception)
    async def failed(_: Request, _error: Exception) -> Response:
        return JSONResponse({"error": "the server failed at this request; its log says why."}, 500)
