"""Maps of images."""

from __future__ import annotations

from typing import Annotated

import typer

from tintype.cli.options import AsJson, Device, OptionalData, Output, RunPath, SkipBad
from tintype.cli.telling import print_json


def embed(
    run: RunPath,
    data: OptionalData = None,
    layer: Annotated[str, typer.Option(help="a layer of `tintype summary`; features: what the output layer sees")]
    = "features",
    perplexity: Annotated[float | None, typer.Option(help="about how many neighbours an image is to keep")] = None,
    output: Output = None,
    skip_bad: SkipBad = False,
    device: Device = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Draw a map of a RUN's test images by what a layer says of them; DATA is placed into it."""
    from tintype.console import Display, error_console

    display = Display(quiet=as_json)
    with display.watching() as watch:
        from tintype import api
        from tintype.report.embedding import summary_lines

        found = api.embed(
            run, data, layer=layer, perplexity=perplexity, output=output, skip_bad=skip_bad, device=device or "auto",
            watch=watch,
        )  # fmt: skip
    if as_json:
        print_json({"path": found.path, **{key: item for key, item in found.content.items() if key != "points"}})
        return
    lines = "\n".join([*summary_lines(found.content), f"map: {found.page}"])
    error_console.print(lines, soft_wrap=True, markup=False, highlight=False)
