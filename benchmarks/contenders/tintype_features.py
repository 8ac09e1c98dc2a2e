"""tintype: MobileNetV2's features of the cat and dog photos, from JPEG files to disk, in images per second.

Finding the files, decoding them, building the network, choosing its precision and running it count; importing libraries
does not, nor does what `tintype train` does besides: the audit and the images' statistics. Then the same with the
decoded images in the cache and the features not, in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from typing import Any

import timm
import torch

import tintype
from tintype.config import RunConfig
from tintype.data.audit import audit
from tintype.data.cache import build_cache, scan_headers
from tintype.data.shift import image_statistics
from tintype.data.sources import read_index
from tintype.data.split import make_split
from tintype.planning import plan_data, plan_training
from tintype.preparing import Prepared, build
from tintype.rundir import cache_folder
from tintype.runtime import start_runtime
from tintype.training.features import run_frozen

WARM = "--warm"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder with cats_dogs/train")
    parser.add_argument("--weights", help="folder with MobileNetV2's; without it they are random")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(WARM, action="store_true", help="measure once, from the cache of decoded images")
    arguments = parser.parse_args()
    cold = extract(arguments)
    if arguments.warm:
        print(json.dumps(cold))
        return
    shutil.rmtree(cache_folder() / "features")
    again = subprocess.run([sys.executable, *sys.argv, WARM], check=True, capture_output=True, text=True)
    warm = json.loads(again.stdout.splitlines()[-1])
    print(
        json.dumps(
            {
                "measures": {
                    "cold_images_per_second": cold["images_per_second"],
                    "warm_images_per_second": warm["images_per_second"],
                },
                "cold": cold,
                "warm": warm,
                "versions": {"tintype": tintype.__version__, "torch": torch.__version__, "timm": timm.__version__},
            }
        )
    )


def extract(arguments: argparse.Namespace) -> dict[str, Any]:
    """Go from files to features; gives the rate and the parts of the time."""
    config = RunConfig().replace(
        {
            "data.source": f"{arguments.data}/cats_dogs/train",
            "data.image_size": arguments.image_size,
            "data.test_fraction": 0.0,
            "model.backbone": "mobilenetv2_100",
            "model.weights": arguments.weights or "none",
            "model.freeze": "all",
            "seed": arguments.seed,
            "device": "cpu",
        }
    )
    begin = time.perf_counter()
    index = read_index(config.data)
    plan = plan_data(config, index, scan_headers(index, config.data))
    cache = build_cache(index, plan.config.data)
    split = make_split(index, cache.usable, plan.config.data)
    plan = plan_training(plan, len(index.classes), len(split.train))
    decoded = time.perf_counter() - begin
    runtime = start_runtime(config.device, config.threads, config.seed)
    data = Prepared(plan, runtime, cache, split, audit(cache, split), image_statistics(cache, split.train))

    begin = time.perf_counter()
    built = build(data)
    built_seconds = time.perf_counter() - begin
    assert built.cut is not None
    fit = built.plan.config.fit
    features = run_frozen(built.cut, cache, split, fit, built.plan.config.augment, built.runtime)
    assert features.was_built
    assert cache.was_built is not arguments.warm
    seconds = decoded + time.perf_counter() - begin
    return {
        "images_per_second": len(index) / seconds,
        "seconds": seconds,
        "decoding_seconds": decoded,
        "building_seconds": built_seconds,
        "images": len(index),
        "values": features.shape,
        "precision": fit.feature_precision,
    }


if __name__ == "__main__":
    main()
