"""tintype: many settings of a head trained together on MobileNetV2's 1,280 features of the cat and dog photos.

Learning rates times weight decays, all trained side by side in one pass over the features; ``--rates 1 --decays 1``
trains one. Once a linear head, once one with a hidden layer. The frozen layers and an epoch to warm up come before.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import torch
from numpy.typing import NDArray

import tintype
from tintype.config import HeadsConfig, RunConfig
from tintype.data.features import FeatureCache, from_bits
from tintype.preparing import build, prepare_data
from tintype.training.features import run_frozen
from tintype.training.heads import FittedHeads, expand, fit_heads
from tintype.watch import Watch

BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder with cats_dogs/train")
    parser.add_argument("--weights", help="folder with MobileNetV2's; without it they are random")
    parser.add_argument("--rates", type=int, default=8)
    parser.add_argument("--decays", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    features, train, validation = frozen_features(arguments)
    measures, accuracies, seconds = {}, {}, {}
    for key, width in (("settings_per_second", 0), ("hidden_settings_per_second", 64)):
        config = HeadsConfig(
            learning_rate=tuple(np.geomspace(3e-4, 1e-2, arguments.rates).tolist()),
            weight_decay=tuple(np.geomspace(1e-3, 1.0, arguments.decays).tolist()),
            width=(width,),
        )
        fit_all(features, train, validation, config, 1, arguments.seed)
        begin = time.perf_counter()
        fitted = fit_all(features, train, validation, config, arguments.epochs, arguments.seed)
        seconds[key] = time.perf_counter() - begin
        measures[key] = len(fitted.results) / seconds[key]
        best = fitted.results[fitted.best()]
        accuracies[key] = best.history[best.best_epoch - 1].validation_accuracy
    print(
        json.dumps(
            {
                "measures": measures,
                "seconds": seconds,
                "best_validation_accuracy": accuracies,
                "training_images": len(train),
                "validation_images": len(validation),
                "versions": {"tintype": tintype.__version__, "torch": torch.__version__},
            }
        )
    )


def frozen_features(arguments: argparse.Namespace) -> tuple[FeatureCache, NDArray[np.int64], NDArray[np.int64]]:
    """What the frozen MobileNetV2 says of the photos, and which of them train and which validate."""
    changes = {
        "data.source": f"{arguments.data}/cats_dogs/train",
        "data.image_size": arguments.image_size,
        "data.test_fraction": 0.0,
        "model.backbone": "mobilenetv2_100",
        "model.weights": arguments.weights or "none",
        "model.freeze": "all",
        "seed": arguments.seed,
        "device": "cpu",
    }
    data = prepare_data(RunConfig().replace(changes), Watch())
    built = build(data)
    assert built.cut is not None
    config = built.plan.config
    features = run_frozen(built.cut, data.cache, data.split, config.fit, config.augment, built.runtime)
    return features, data.split.train, data.split.validation


def fit_all(
    features: FeatureCache,
    train: NDArray[np.int64],
    validation: NDArray[np.int64],
    config: HeadsConfig,
    epochs: int,
    seed: int,
) -> FittedHeads:
    """Train every setting."""
    labels = features.index.labels
    return fit_heads(
        vectors(features, train)[None], labels[train], vectors(features, validation), labels[validation],
        expand(config, seed), classes=2, output="sigmoid", epochs=epochs, batch_size=BATCH, seed=seed,
    )  # fmt: skip


def vectors(features: FeatureCache, indices: NDArray[np.int64]) -> torch.Tensor:
    """(N, 1280) fp32."""
    return from_bits(features.clean[indices], features.is_bf16).float()


if __name__ == "__main__":
    main()
