"""Serving a trained model on a network."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from tintype.cli.ranks import watching


def serve(
    model: Annotated[Path, typer.Argument(help="run directory, or an export")],
    host: Annotated[str, typer.Option(help="address to listen on; 0.0.0.0 for all of this machine")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port to listen on; 0 for any that is free")] = 8000,
    token_file: Annotated[
        Path | None, typer.Option(help="file with a token that clients must know (or set TINTYPE_TOKEN)")
    ] = None,
    max_upload: Annotated[float, typer.Option(help="MiB of one request")] = 20.0,
    queue: Annotated[int, typer.Option(help="images that may wait; more are refused with 503")] = 256,
    batch: Annotated[
        int | None, typer.Option(help="images that the network sees at once, at most; 4 on a CPU, else 16")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="threads of the network")] = None,
    int8: Annotated[bool, typer.Option("--int8", help="use the quantised network of the export")] = False,
    access_log: Annotated[bool, typer.Option("--access-log", help="one line for each request on stderr")] = False,
) -> None:
    """Answer requests with a finished RUN: a page for people, HTTP for programs."""
    from tintype.serving.server.start import serve as run
    from tintype.watch import Watch

    run(
        model, host=host, port=port, token_file=token_file, max_upload=max_upload, queue=queue, batch=batch,
        threads=threads, int8=int8, access_log=access_log,
        watch=Watch(on_message=lambda line: typer.echo(line, err=True)), showing=partial(watching, False),
    )  # fmt: skip
