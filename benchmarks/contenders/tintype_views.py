"""tintype: a head on augmented cat and dog photos, from 8 kept views of each or from new ones every epoch.

The frozen layers run once over each training image as it is and changed in 7 ways, and the head trains on what they
said; with ``--no-feature-cache`` they run in each epoch on images that were changed anew. Whole runs of `tintype
train`; its training time counts, with the frozen layers and the validation in it, and the accuracy on the test images.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import timm
import torch

import tintype
from tintype.config import RunConfig
from tintype.run import start_run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder with cats_dogs/")
    parser.add_argument("--weights", help="folder with MobileNetV2's; without it they are random")
    parser.add_argument("--no-feature-cache", action="store_true")
    parser.add_argument("--views", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--fraction", type=float, default=1.0, help="share of the training images")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = start_run(settings(arguments), Path(folder) / "run")
        environment = json.loads((run.path / "environment.json").read_text(encoding="utf-8"))
    print(
        json.dumps(
            {
                "measures": {
                    "training_seconds": environment["training_seconds"],
                    "test_accuracy": 100 * run.evaluation.accuracy.value,
                },
                "run_seconds": environment["seconds"],
                "precision": environment["precision"],
                "test_images": run.evaluation.accuracy.n,
                "validation_accuracy": [row.validation_accuracy for row in run.history],
                "versions": {"tintype": tintype.__version__, "torch": torch.__version__, "timm": timm.__version__},
            }
        )
    )


def settings(arguments: argparse.Namespace) -> RunConfig:
    """The same head, recipe and epochs for both; only the images differ."""
    changes: dict[str, Any] = {
        "data.source": f"{arguments.data}/cats_dogs",
        "data.image_size": arguments.image_size,
        "data.fraction": arguments.fraction,
        "augment.policy": "photo",
        "model.backbone": "mobilenetv2_100",
        "model.weights": arguments.weights or "none",
        "model.freeze": "all",
        "model.flip_average": False,
        "fit.feature_cache": not arguments.no_feature_cache,
        "fit.views": None if arguments.no_feature_cache else arguments.views,
        "fit.optimizer": "adamw",
        "fit.learning_rate": 1e-3,
        "fit.weight_decay": 0.05,
        "fit.batch_size": 64,
        "fit.epochs": arguments.epochs,
        "seed": arguments.seed,
        "device": "cpu",
    }
    return RunConfig().replace(changes)


if __name__ == "__main__":
    main()
