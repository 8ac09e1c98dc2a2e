"""From a path and options to a running server."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tintype.errors import ConfigError, MissingDependencyError
from tintype.ranks.torchrun import usable_cores
from tintype.rundir import RunDir
from tintype.serving.predictor import EXPORT_FOLDER, is_export
from tintype.watch import Watch

if TYPE_CHECKING:
    from tintype.serving.server.limits import Limits
    from tintype.serving.server.service import Documents

LOOPBACK = ("127.", "::1", "localhost")


def serve(
    path: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token_file: str | Path | None = None,
    max_upload: float = 20.0,
    queue: int = 256,
    batch: int | None = None,
    threads: int | None = None,
    int8: bool = False,
    access_log: bool = False,
    watch: Watch = Watch(),
    showing: Callable[[], AbstractContextManager[Watch]] | None = None,
) -> None:
    """Answer requests until SIGTERM or Ctrl-C, then finish what was accepted.

    Args:
        path: A run directory, which is exported first where it has no export; an export directory or its .onnx file.
        host: Where to listen.
        port: 0 for any that is free.
        token_file: Holds the token that clients must know; None takes TINTYPE_TOKEN, or lets everybody in.
        max_upload: MiB of one request.
        queue: Images that may wait for their answers.
        batch: Images that the network sees at once, at most; None takes 4 on a CPU and 16 elsewhere.
        threads: Of the network; None for the cores there are.
        int8: Use the export's quantised network.
        access_log: Write a line for each request on stderr.
        watch: Is told where the server listens.
        showing: Shows the progress of the export where one has to be made first; None tells ``watch`` of it.

    Raises:
        ConfigError: An option cannot be used.
        RunError: There is no finished run and no export.
        MissingDependencyError: The libraries of the extra ``serve`` are missing.
    """
    try:
        from tintype.serving.server.run import listen, run_server
    except ImportError as error:
        raise MissingDependencyError(
            f"serving needs {error.name}, which is not installed: pip install 'tintype[serve]'"
        ) from None
    from tintype.serving.exported import Exported
    from tintype.serving.server.guard import read_token
    from tintype.serving.server.limits import CPU_LANES
    from tintype.serving.server.service import Service

    for name, value in (("max_upload", max_upload), ("queue", queue), ("batch", batch)):
        if value is not None and value <= 0:
            raise ConfigError(f"{name} must be more than 0. Got {value}.")
    token = read_token(None if token_file is None else Path(token_file))
    # Before the model is read, which takes a while, and would be for nothing where the port is taken.
    listener = listen(host, port)
    with listener:
        export = require_export(Path(path), int8, watch, showing or (lambda: nullcontext(watch)))
        classifier = Exported(export, threads, int8, calls=CPU_LANES)
        limits = _limits(max_upload, queue, batch, threads or usable_cores(), classifier.is_on_cpu)
        name = model_name(classifier.name)
        service = Service(classifier, name, limits, token, documents_of(classifier.path.parent, classifier.card))
        address = listener.getsockname()

        def on_ready() -> None:
            shown = f"[{address[0]}]" if ":" in address[0] else address[0]
            watch.on_message(f"serving {name} on http://{shown}:{address[1]}  (Ctrl-C stops)")
            if token is None and not address[0].startswith(LOOPBACK):
                watch.on_message("anybody who can reach this machine may use the model: give a token with --token-file")

        run_server(service, listener, on_ready, access_log=access_log)
    watch.on_message("stopped; everything that was accepted is answered")


def _limits(max_upload: float, queue: int, batch: int | None, threads: int, is_on_cpu: bool) -> Limits:
    from tintype.serving.server.limits import CPU_BATCH, CPU_LANES, MIB, Limits

    limits = Limits(queue=queue, decoders=max(2, usable_cores()))
    if is_on_cpu:
        limits = replace(limits, batch=CPU_BATCH, lanes=min(threads, CPU_LANES), wait_seconds=0.0)
    body_bytes = int(max_upload * MIB)
    return replace(
        limits, batch=batch or limits.batch, body_bytes=body_bytes, text_bytes=min(limits.text_bytes, body_bytes),
        images=min(limits.images, queue), buffered_bytes=max(limits.buffered_bytes, 4 * body_bytes),
    )  # fmt: skip


def require_export(path: Path, int8: bool, watch: Watch, showing: Callable[[], AbstractContextManager[Watch]]) -> Path:
    """The export directory or file that a path stands for; made where a run has none.

    Raises:
        RunError: There is no finished run and no export, or it cannot be exported.
    """
    if is_export(path):
        return path
    export = path / EXPORT_FOLDER
    if not export.exists():
        from tintype.serving.apart import export_apart

        RunDir(path).require_complete()
        watch.on_message(f"{path} has no export yet: making {export}")
        with showing() as shown:
            export_apart(path, int8=int8, watch=shown)
    return export


def documents_of(export: Path, card: Path | None) -> Documents:
    """The pages that lie beside a model: the card in its export, and the report of the run that the export lies in."""
    from tintype.serving.server.service import Documents

    export = export.resolve()
    report = export.parent / "report.html"
    has_report = export.name == EXPORT_FOLDER and report.is_file()
    return Documents(report.read_bytes() if has_report else b"", card.read_bytes() if card is not None else b"")


def model_name(name: str) -> str:
    """A name that can stand in an address as it is."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "model"
