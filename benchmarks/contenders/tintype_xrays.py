"""tintype: the labs' COVID network (VGG16 frozen, a dense head) from image files to the end of training.

A whole run, in which everything counts up to the end of the last epoch: decoding, audit, choosing the precision, the
frozen layers once, 40 epochs of 10 steps of 10 images with validation. The weights are random, which changes nothing
in the work.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import timm
import torch

import tintype
from tintype.config import RunConfig
from tintype.run import start_run
from tintype.watch import Watch

HEAD = "bn\nflatten\ndense 256 relu l2=0.01\ndropout 0.3"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder with train/, val/ and test/, each with two classes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--image-size", type=int, default=224)
    arguments = parser.parse_args()
    config = RunConfig().replace(
        {
            "data.source": arguments.data,
            "data.image_size": arguments.image_size,
            "augment.policy": "none",
            "model.backbone": "vgg16",
            "model.head": HEAD,
            "model.weights": "none",
            "model.freeze": "all",
            "fit.optimizer": "adam",
            "fit.learning_rate": 1e-3,
            "fit.schedule": "constant",
            "fit.epochs": arguments.epochs,
            "fit.steps_per_epoch": 10,
            "fit.batch_size": 10,
            "seed": arguments.seed,
            "device": "cpu",
        }
    )
    ends: list[float] = []
    watch = Watch(on_epoch=lambda *_: ends.append(time.perf_counter()))
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        run = start_run(config, Path(folder) / "run", watch)
        whole = time.perf_counter() - begin
        summary = json.loads((run.path / "summary.json").read_text(encoding="utf-8"))
        environment = json.loads((run.path / "environment.json").read_text(encoding="utf-8"))
    print(
        json.dumps(
            {
                "measures": {"seconds": ends[-1] - begin},
                "seconds_to_first_epoch": ends[0] - begin,
                "seconds_with_test_and_report": whole,
                "parameters": summary["total_parameters"],
                "trainable_parameters": summary["trainable_parameters"],
                "precision": environment["precision"],
                "images": {name: found.accuracy.n for name, found in run.evaluations.items()},
                "versions": {"tintype": tintype.__version__, "torch": torch.__version__, "timm": timm.__version__},
            }
        )
    )


if __name__ == "__main__":
    main()
