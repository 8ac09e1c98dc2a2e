"""Using what was trained, and looking at networks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tintype.cli.options import AsJson, Cut, Depth, Device, Freeze, Head, ImageSize, RunPath
from tintype.cli.telling import fail, print_json

EXPLAINED = Path("explained")
"""Where the pictures of ``--explain`` go unless ``--explain-to`` says something else."""


def predict(
    run: Annotated[Path, typer.Argument(help="run directory, export directory or .onnx file")],
    paths: Annotated[
        list[str] | None, typer.Argument(help="image files, folders or globs; - is one image on standard input")
    ] = None,
    files_from: Annotated[
        str | None, typer.Option(help="a list of image files, one a line or as find -print0 writes it; - reads it")
    ] = None,
    watch: Annotated[Path | None, typer.Option(help="label what appears in this folder, as it appears")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="CSV to add to; images that are in it are not labelled again")
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help=f"show where the model looks: pictures in {EXPLAINED}/")
    ] = False,
    explain_to: Annotated[Path | None, typer.Option(help="the same, pictures in this folder")] = None,
    answer_all: Annotated[bool, typer.Option("--answer-all", help="never say 'not sure'")] = False,
    top: Annotated[int, typer.Option(min=1, help="classes to name for each image, the most probable first")] = 1,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV on stdout, a probability per class")] = False,
    as_json: AsJson = False,
    device: Device = None,
) -> None:
    """Label images with a finished RUN or what was exported of it."""
    from tintype.cli.predicting import Wanted, label_images

    label_images(
        Wanted(
            run, tuple(paths or ()), files_from=files_from, watched=watch, output=output,
            explain_to=explain_to or (EXPLAINED if explain else None), answer_all=answer_all, top=top,
            style="json" if as_json else "csv" if as_csv else "table", device=device or "auto",
        )
    )  # fmt: skip


def import_(
    source: Annotated[Path, typer.Argument(help="somebody's weights: .pth, .pt, .bin or .safetensors")],
    output: Annotated[Path, typer.Option("--output", "-o", help=".safetensors file to write")],
    backbone: Annotated[str | None, typer.Option(help="the network they are for, by timm's name")] = None,
    mean: Annotated[
        str | None, typer.Option(help="of the images they were trained on, 0..1: 0.485,0.456,0.406")
    ] = None,
    std: Annotated[str | None, typer.Option(help="standard deviation, likewise")] = None,
    image_size: ImageSize = None,
    as_json: AsJson = False,
) -> None:
    """Turn somebody else's weights into a .safetensors file."""
    from tintype import api
    from tintype.console import error_console

    imported = api.import_weights(source, output, backbone=backbone, mean=mean, std=std, image_size=image_size)
    if as_json:
        print_json(imported)
        return
    error_console.print(
        f"{imported.path}: {imported.tensors:,} tensors, {imported.parameters:,} numbers. Use it with: "
        f"tintype train DATA --weights {imported.path}",
        soft_wrap=True,
    )


def summary(
    model: Annotated[
        str | None, typer.Argument(help="zoo name, module:function, a text file of layers, or settings (.toml)")
    ] = None,
    backbone: Annotated[str | None, typer.Option(help="a network of timm instead")] = None,
    head: Head = None,
    cut: Cut = None,
    freeze: Freeze = None,
    depth: Depth = None,
    image_size: ImageSize = None,
    classes: Annotated[int | None, typer.Option(help="number of classes")] = None,
    color: Annotated[str, typer.Option(help="grey or rgb")] = "auto",
    list_names: Annotated[bool, typer.Option("--list", help="print the names of the zoo, one a line")] = False,
    as_json: AsJson = False,
) -> None:
    """Show a network's layers with output shapes and parameters."""
    if list_names:
        from tintype.models import zoo

        typer.echo("\n".join(zoo.names()))
        return
    if (model is None) == (backbone is None):
        fail("name a network or a --backbone, or --list to see the names.")
    from tintype import api
    from tintype.console import show_summary

    table = api.summary(
        model, image_size=image_size, classes=classes, color=color, backbone=backbone, head=head, cut=cut,
        freeze=freeze, depth=depth,
    )  # fmt: skip
    if as_json:
        print_json(table)
    else:
        show_summary(table)


def report(run: RunPath) -> None:
    """Rebuild the report of a RUN, evaluation, map, study, search or comparison from its directory alone."""
    from tintype.report import rewrite_report

    typer.echo(rewrite_report(run))
