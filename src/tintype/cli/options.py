"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[str, typer.Argument(help="folder of class folders, manifest (.csv, .parquet), idx folder, or .npz")]
OptionalData = Annotated[str | None, typer.Argument(help="folder of class folders, manifest, idx folder, or .npz")]
RunPath = Annotated[Path, typer.Argument(help="run directory")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="run directory to write")]
AsJson = Annotated[bool, typer.Option("--json", help="one JSON object on stdout, nothing else")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="any setting, such as fit.ema=0.999")]
Model = Annotated[str | None, typer.Option(help="a network of the zoo, or module:function")]
Backbone = Annotated[list[str] | None, typer.Option(help="a pretrained network of timm; several are compared")]
Head = Annotated[str | None, typer.Option(help='layers behind the backbone: "flatten; dense 256 relu; dropout 0.3"')]
Cut = Annotated[str | None, typer.Option(help="use the backbone up to this layer only")]
Freeze = Annotated[str | None, typer.Option(help="what of the backbone stays as it is: all, none, a number, a layer")]
Depth = Annotated[str | None, typer.Option(help="train the backbone's last N layers, or all")]
Views = Annotated[int | None, typer.Option(help="versions of each image that frozen layers see, once")]
HeadEpochs = Annotated[int | None, typer.Option(help="epochs in which the head trains alone first")]
Weights = Annotated[str | None, typer.Option(help="auto (pretrained), none (random), or a .safetensors file")]
NoFeatureCache = Annotated[bool, typer.Option("--no-feature-cache", help="run frozen layers again in every epoch")]
Classes = Annotated[str | None, typer.Option(help="use these classes alone, such as cat,dog")]
ImageSize = Annotated[int | None, typer.Option(help="side in pixels")]
Resize = Annotated[str | None, typer.Option(help="stretch, crop or pad")]
Epochs = Annotated[int | None, typer.Option(help="passes over the training images")]
BatchSize = Annotated[int | None, typer.Option(help="images per step")]
LearningRate = Annotated[float | None, typer.Option(help="peak learning rate")]
Optimizer = Annotated[str | None, typer.Option(help="sgd, adam, adamw, rmsprop or adadelta")]
Augment = Annotated[str | None, typer.Option(help="none, light, photo or digits")]
Seed = Annotated[int | None, typer.Option(help="root of everything random")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N")]
Workers = Annotated[int | None, typer.Option(help="processes on this machine that train together")]
ScaleLr = Annotated[bool, typer.Option("--scale-lr", help="each process takes a whole batch, and the rate grows")]
SyncBatchNorm = Annotated[bool, typer.Option("--sync-batchnorm", help="BatchNorm over the images of all processes")]
Comm = Annotated[str | None, typer.Option(help="how gradients travel: auto, fp32, bf16, powersgd or local_sgd")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="leave unreadable images out instead of stopping")]
AllowSmall = Annotated[bool, typer.Option("--allow-small", help="keep classes too small to split in training")]
