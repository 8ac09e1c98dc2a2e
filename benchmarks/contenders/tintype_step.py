"""tintype: training images per second of the labs' networks A2 and E3 on batches held in memory.

The trainer of `tintype train` runs as it is, with its choice of precision, on a few batches of noise without
augmentation or validation. The rate is that of the second epoch, as the trainer itself records it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch

import tintype
from tintype.config import RunConfig
from tintype.models.summary import summarize
from tintype.preparing import build, prepare_data
from tintype.training.fit import fit
from tintype.watch import Watch

BATCHES = 2
NETWORKS = {
    "a2": {"model.name": "cats_dogs", "fit.batch_size": 64, "fit.optimizer": "rmsprop", "fit.learning_rate": 1e-3},
    "e3": {
        "model.name": "mnist_tutorial",
        "fit.batch_size": 128,
        "fit.optimizer": "adadelta",
        "fit.learning_rate": 1.0,
    },
}
SHAPES = {"a2": (180, 180, 3), "e3": (28, 28)}
CLASSES = {"a2": 2, "e3": 10}
STEPS = {"a2": 12, "e3": 120}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="not used: the images are noise")
    parser.add_argument("--network", choices=list(NETWORKS), required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=0, help="0: 12 for a2, 120 for e3")
    arguments = parser.parse_args()
    name, settings = arguments.network, NETWORKS[arguments.network]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "noise.npz"
        write_noise(source, BATCHES * int(str(settings["fit.batch_size"])), name, arguments.seed)
        config = RunConfig().replace(
            settings
            | {
                "data.source": str(source),
                "data.validation_fraction": 0.0,
                "data.test_fraction": 0.0,
                "augment.policy": "none",
                "fit.rho": 0.95,
                "fit.schedule": "constant",
                "fit.epochs": 2,
                "fit.steps_per_epoch": arguments.steps or STEPS[name],
                "seed": arguments.seed,
                "device": "cpu",
            }
        )
        data = prepare_data(config, Watch())
        built = build(data)
        config = built.plan.config
        fitted = fit(built.network, data.cache, data.split, config.fit, config.augment, built.runtime)
    print(
        json.dumps(
            {
                "measures": {f"{name}_images_per_second": fitted.history[-1].images_per_second},
                "parameters": summarize(built.network, data.input_shape).total_parameters,
                "precision": built.runtime.precision,
                "micro_batch": fitted.micro_batch,
                "evidence": built.runtime.evidence,
                "versions": {"tintype": tintype.__version__, "torch": torch.__version__},
            }
        )
    )


def write_noise(path: Path, count: int, name: str, seed: int) -> None:
    """Random pixels and labels as an .npz, every class equally often."""
    random = np.random.default_rng(seed)
    images = random.integers(0, 256, size=(count, *SHAPES[name]), dtype=np.uint8)
    np.savez(path, x_train=images, y_train=np.arange(count) % CLASSES[name])


if __name__ == "__main__":
    main()
