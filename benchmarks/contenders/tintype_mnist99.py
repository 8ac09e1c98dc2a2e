"""tintype: training seconds to 99.0 % test accuracy on MNIST with its default network and recipe.

Tested after each epoch; neither the tests nor reading the files count, the choice of precision and the validation
after each epoch do. The recipe's learning rate falls to nothing over the epochs asked for, so the number of epochs
is part of it: where the target is not reached in ``--epochs``, training starts again with one more, and the time of
the failed try counts as well.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, field

import numpy as np
import torch

import tintype
from tintype.config import RunConfig
from tintype.errors import RunInterrupted
from tintype.evaluation.predict import predict
from tintype.preparing import Prepared, build, prepare_data
from tintype.records import EpochRecord
from tintype.training.fit import fit
from tintype.training.optim import import_optimizers_ahead
from tintype.watch import Watch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder with mnist/*.gz")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", type=float, default=0.99)
    parser.add_argument("--epochs", type=int, default=1, help="of the first try")
    parser.add_argument("--tries", type=int, default=4)
    arguments = parser.parse_args()
    settings = {"data.source": f"{arguments.data}/mnist", "device": "cpu", "seed": arguments.seed}
    seconds, curve = 0.0, []
    import_optimizers_ahead()  # as a run does while it reads the files
    for epochs in range(arguments.epochs, arguments.epochs + arguments.tries):
        data = prepare_data(RunConfig().replace(settings | {"fit.epochs": epochs}), Watch())
        attempt = Attempt(arguments.target)
        attempt.run(data)
        curve += [[epochs, round(seconds + elapsed, 3), accuracy] for elapsed, accuracy in attempt.curve]
        seconds += attempt.curve[-1][0]
        if attempt.reached:
            break
    print(
        json.dumps(
            {
                "measures": {"seconds_to_target": seconds if attempt.reached else None},
                "curve": curve,
                "versions": {"tintype": tintype.__version__, "torch": torch.__version__},
            }
        )
    )


@dataclass
class Attempt:
    """One training, tested after each epoch.

    Attributes:
        target: Test accuracy at which it stops.
        curve: Training seconds and test accuracy after each epoch.
        reached: Whether the last epoch reached the target.
    """

    target: float
    curve: list[tuple[float, float]] = field(default_factory=list)
    reached: bool = False

    def run(self, data: Prepared) -> None:
        """Build and train until the target is reached or the epochs are over."""
        begin, testing = time.perf_counter(), 0.0
        built = build(data)
        config = built.plan.config

        def test(_record: EpochRecord) -> None:
            nonlocal testing
            elapsed = time.perf_counter() - begin - testing
            predictions = predict(built.network, data.cache, data.split.test, built.runtime, "test")
            accuracy = float(np.mean(predictions.predicted == predictions.labels))
            self.curve.append((elapsed, accuracy))
            self.reached = accuracy >= self.target
            testing = time.perf_counter() - begin - elapsed

        try:
            fit(
                built.network, data.cache, data.split, config.fit, config.augment, built.runtime,
                on_epoch=test, should_stop=lambda: self.reached,
            )  # fmt: skip
        except RunInterrupted:
            assert self.reached


if __name__ == "__main__":
    main()
