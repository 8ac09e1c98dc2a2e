"""What the searches of AutoKeras and KerasTuner share: the images, an end in time, and the file with the predictions.

Neither library has a time limit (autokeras#1649). ``Timed`` gives a tuner one, in the way that costs it least: the
training that goes on when the time is up stops after its batch, is validated like any other, and the best model so far
is taken.
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import keras
import keras_tuner
import numpy as np
import tensorflow as tf

SIDE = 64
"""Pixels of the images' side; all of them have it, so that nothing is resized."""

VALIDATION_SHARE = 0.1
"""Of the training images, as `tintype tune` takes. The usual 0.2 would leave a peer fewer to learn from."""

SLOWEST_EPOCH, SLOWEST_SECONDS = 0.1, 30.0
"""Share of the minutes, and at least so many seconds: a trial whose epoch would take longer is given up early."""

SECONDS_TO_JUDGE = 5.0
"""How long a first epoch is looked at before it is judged; its first batch, with the compilation, does not count."""


@dataclass(frozen=True)
class Images:
    """Images of one folder, uint8 of shape (N, side, side, 3), and the number of each one's class.

    Attributes:
        pixels: The images.
        labels: Numbers of their classes.
        paths: Their files relative to the folder.
        classes: Names of the classes, which are those of the folders.
    """

    pixels: np.ndarray
    labels: np.ndarray
    paths: list[str]
    classes: list[str]


def read_images(folder):
    """Read ``folder/CLASS/FILE`` as Keras' users do."""
    dataset = keras.utils.image_dataset_from_directory(
        folder, image_size=(SIDE, SIDE), batch_size=None, shuffle=False, verbose=False
    )
    pixels = np.stack([image for image, _ in dataset.as_numpy_iterator()]).astype(np.uint8)
    labels = np.array([label for _, label in dataset.as_numpy_iterator()])
    paths = [str(Path(path).relative_to(folder)) for path in dataset.file_paths]
    return Images(pixels, labels, paths, list(dataset.class_names))


def split(images, seed):
    """Training and validation images as ``((x, y), (x, y))``, each class in the same shares, both shuffled."""
    order = np.random.default_rng(seed)
    train, validation = [], []
    for label in range(len(images.classes)):
        own = order.permutation(np.flatnonzero(images.labels == label))
        held_out = round(VALIDATION_SHARE * len(own))
        validation.append(own[:held_out])
        train.append(own[held_out:])
    train, validation = (order.permutation(np.concatenate(parts)) for parts in (train, validation))
    return tuple((images.pixels[part], images.labels[part]) for part in (train, validation))


class TooSlowError(Exception):
    """An epoch of the trial would take too long."""


class Clock(keras.callbacks.Callback):
    """Stops a training when its time, or that of the whole search, is up; one object for all trials.

    Args:
        minutes: Of the whole search, from now on.
        longest_trial: Share of them after which a trial stops training, and is validated.
    """

    def __init__(self, minutes, longest_trial=1.0):
        super().__init__()
        self.seconds = 60 * minutes
        self.longest_trial = longest_trial * self.seconds
        self.begin = time.monotonic()
        self.ends = self.begin + self.seconds
        self.slowest_epoch = max(SLOWEST_SECONDS, SLOWEST_EPOCH * self.seconds)

    def __deepcopy__(self, memo):
        return self

    @property
    def is_over(self):
        """Whether the time of the search is up."""
        return time.monotonic() >= self.ends

    def on_train_begin(self, *_, **__):
        """Begin the time of a trial."""
        self.stops = min(self.ends, time.monotonic() + self.longest_trial)
        self.first_batch_ended = None
        self.batches = 0
        self.judged = False

    def on_train_batch_end(self, *_, **__):
        """Stop what has had its time; give up what is too slow."""
        now = time.monotonic()
        if now >= self.stops:
            self.model.stop_training = True
        elif self.first_batch_ended is None:
            self.first_batch_ended = now
        elif not self.judged:
            self.batches += 1
            self._judge(now - self.first_batch_ended)

    def on_test_batch_end(self, *_, **__):
        """Give up a validation that takes too long after the end of the training."""
        # What trains too slowly is validated too slowly as well: nobody waits for it.
        if time.monotonic() >= self.stops + self.slowest_epoch:
            raise TooSlowError

    def _judge(self, seconds):
        steps = self.params.get("steps")
        if seconds < SECONDS_TO_JUDGE or not steps:
            return
        self.judged = True
        if seconds / self.batches * steps > self.slowest_epoch:
            raise TooSlowError


class Timed:
    """Put before a tuner's class: ends its search in time, and gives trials up that are too slow.

    Attributes:
        clock: To be set before the search; also among its callbacks.
        given_up: Trials that were too slow. They count as trials with nothing right: a failed trial would keep
            Hyperband from promoting others.
    """

    clock = None
    given_up = 0

    def pre_create_trial(self):
        """Let the oracle end the search when the time is up."""
        super().pre_create_trial()
        if self.clock.is_over:
            self.oracle.max_trials = max(1, len(self.oracle.trials))

    def run_trial(self, trial, *args, **kwargs):
        """Train a trial, or give it up."""
        try:
            return super().run_trial(trial, *args, **kwargs)
        except TooSlowError:
            self.given_up += 1
            return {"val_accuracy": 0.0}

    def get_best_models(self, num_models=1):
        """The best networks with their best weights.

        Raises:
            RuntimeError: There is none.
        """
        if not self.oracle.get_best_trials(1)[0].score:
            raise RuntimeError("No network was trained for one epoch in the time.")
        return super().get_best_models(num_models)


def arguments_of(description):
    """The parser of the command line that all searches have in common."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, required=True, help="folder with train/CLASS and test/CLASS")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True, help="JSON file with the predictions")
    return parser


def write(path, tuner, model, test, predicted, begin, end, **details):
    """Write what the driver reads.

    Args:
        path: The file.
        tuner: Whose search has ended.
        model: The best network.
        test: The test images.
        predicted: A class number for each of them.
        begin: When the search began, by ``time.monotonic``.
        end: When it had its best model.
        details: More to be recorded.
    """
    (best,) = tuner.oracle.get_best_trials(1)
    said = {
        "predictions": {file: test.classes[int(label)] for file, label in zip(test.paths, predicted, strict=True)},
        "seconds_searched": end - begin,
        "trials": len(tuner.oracle.trials),
        "given_up": tuner.given_up,
        "failed_trials": sum(trial.status in ("FAILED", "INVALID") for trial in tuner.oracle.trials.values()),
        "parameters": model.count_params(),
        "validation_accuracy": best.score,
        "winner": best.hyperparameters.values,
        "versions": {
            "keras": keras.__version__,
            "tensorflow": tf.__version__,
            "keras-tuner": keras_tuner.__version__,
            **details.pop("versions", {}),
        },
        **details,
    }
    path.write_text(json.dumps(said), encoding="utf-8")
