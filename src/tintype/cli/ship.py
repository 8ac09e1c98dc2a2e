"""Handing a trained model over."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tintype.cli.options import AsJson, RunPath
from tintype.cli.ranks import watching
from tintype.cli.telling import print_json


def export(
    run: RunPath,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="directory to write; RUN/export by default")
    ] = None,
    int8: Annotated[bool, typer.Option("--int8", help="write a quantised model, too, and say what it costs")] = False,
    torch_program: Annotated[bool, typer.Option("--torch", help="write a torch.export program, too")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a finished RUN's model as ONNX with everything inside, verified against the run."""
    from tintype.console import error_console

    with watching(as_json) as watch:
        from tintype import api

        made = api.export(run, output=output, int8=int8, torch_program=torch_program, watch=watch)
    if as_json:
        print_json({"path": str(made.path), **made.to_plain()})
        return
    from tintype.serving.telling import summary_lines

    error_console.print("\n".join(summary_lines(made)), soft_wrap=True, markup=False, highlight=False)
