"""tintype: training images per second of a network's last stage, everything before it frozen.

What the frozen layers say is kept and only the last stage runs; with ``--no-feature-cache`` every layer runs on every
batch. The images are photos without augmentation. The rate is that of the second epoch, as the trainer itself records
it: the one pass through the frozen layers is not in it, and is told apart.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import timm
import torch

import tintype
from tintype.config import RunConfig
from tintype.learning import learn
from tintype.models.summary import summarize
from tintype.preparing import build, prepare_data
from tintype.training.optim import import_optimizers_ahead
from tintype.watch import Watch

NETWORKS: dict[str, dict[str, Any]] = {
    "mobilenetv2_100": {"model.freeze": "blocks.5", "fit.batch_size": 64},
    "vgg16": {"model.freeze": "features.23", "model.head": "gap", "model.weights": "none", "fit.batch_size": 32},
}
IMAGES = {"mobilenetv2_100": 1024, "vgg16": 128}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder with cats_dogs/train")
    parser.add_argument("--weights", help="folder with MobileNetV2's; VGG16's are random")
    parser.add_argument("--network", choices=list(NETWORKS), required=True)
    parser.add_argument("--no-feature-cache", action="store_true")
    parser.add_argument("--images", type=int, default=0, help="0: 1,024 for MobileNetV2, 128 for VGG16")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    import_optimizers_ahead()
    with tempfile.TemporaryDirectory() as name:
        manifest = Path(name) / "photos.csv"
        write_manifest(manifest, Path(arguments.data) / "cats_dogs" / "train", images_of(arguments))
        config = settings(arguments, manifest)
        data = prepare_data(config, Watch())
        built = build(data)
        begin = time.perf_counter()
        history = learn(built, data, Path(name) / "checkpoint", Watch(), lambda *_: None).fitted.history
        seconds = time.perf_counter() - begin
    summary = summarize(built.network, data.input_shape)
    key = f"{arguments.network.partition('_')[0]}_images_per_second"
    print(
        json.dumps(
            {
                "measures": {key: history[-1].images_per_second},
                "frozen_pass_seconds": seconds - sum(record.seconds for record in history),
                "parameters": summary.total_parameters,
                "trainable_parameters": summary.trainable_parameters,
                "precision": built.runtime.precision,
                "frozen_precision": built.plan.config.fit.feature_precision,
                "micro_batch": built.plan.config.fit.micro_batch,
                "versions": {"tintype": tintype.__version__, "torch": torch.__version__, "timm": timm.__version__},
            }
        )
    )


def images_of(arguments: argparse.Namespace) -> int:
    return int(arguments.images or IMAGES[arguments.network])


def settings(arguments: argparse.Namespace, source: Path) -> RunConfig:
    """Two epochs over all images, of which none validates."""
    changes: dict[str, Any] = {
        "data.source": str(source),
        "data.image_size": arguments.image_size,
        "data.validation_fraction": 0.0,
        "data.test_fraction": 0.0,
        "augment.policy": "none",
        "model.backbone": arguments.network,
        "model.weights": arguments.weights or "none",
        "fit.feature_cache": not arguments.no_feature_cache,
        "fit.optimizer": "adamw",
        "fit.learning_rate": 1e-3,
        "fit.head_epochs": 0,
        "fit.epochs": 2,
        "seed": arguments.seed,
        "device": "cpu",
    }
    return RunConfig().replace(changes | NETWORKS[arguments.network])


def write_manifest(path: Path, photos: Path, count: int) -> None:
    """The first photos of each class, as a table of paths and labels."""
    classes = sorted(folder for folder in photos.iterdir() if folder.is_dir())
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(("path", "label"))
        for folder in classes:
            chosen = sorted(folder.iterdir())[: count // len(classes)]
            table.writerows((str(photo), folder.name) for photo in chosen)


if __name__ == "__main__":
    main()
