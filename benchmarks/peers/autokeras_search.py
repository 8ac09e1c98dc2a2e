"""AutoKeras: the best classifier for a folder of images that it finds in some minutes.

Two spaces. ``plain`` is AutoKeras' own family of convolutional networks (`ak.ImageBlock(block_type="vanilla")`),
beginning with the network that `ak.ImageClassifier` tries first. ``default`` is `ak.ImageClassifier` as it comes: after
that first network it tries ResNet-50 on images enlarged to 224 px, and EfficientNet-B7 with weights to download.
"""

import tempfile
import time

import autokeras as ak
import keras
from autokeras.tuners import greedy, task_specific
from timed import Clock, Timed, arguments_of, read_images, split, write

MOST_TRIALS = 10_000
"""More than there is time for."""

MOST_FAILURES = 1_000
"""One after another. KerasTuner's own 3 would end a search that draws networks whose weights cannot be downloaded."""

LONGEST_TRIAL = 1 / 3
"""Share of the minutes: AutoKeras does not limit a trial that gets better and better."""

PATIENCE = 4
"""Epochs without a better validation accuracy. AutoKeras' own 10 would leave time for two or three trials."""


class PlainTuner(Timed, greedy.Greedy):
    """AutoKeras' greedy search, beginning with the plain one of its three usual networks."""

    def __init__(self, **kwargs):
        super().__init__(initial_hps=task_specific.IMAGE_CLASSIFIER[:1], **kwargs)


class DefaultTuner(Timed, task_specific.ImageClassifierTuner):
    """AutoKeras' search for images as it comes."""


def main() -> None:
    parser = arguments_of(__doc__)
    parser.add_argument("--space", choices=["plain", "default"], default="plain")
    arguments = parser.parse_args()
    keras.utils.set_random_seed(arguments.seed)
    images, test = (read_images(arguments.data / part) for part in ("train", "test"))
    train, validation = split(images, arguments.seed)

    with tempfile.TemporaryDirectory() as folder:
        clock = Clock(arguments.minutes, LONGEST_TRIAL)
        searched = search_of(arguments.space, folder, arguments.seed)
        searched.tuner.clock = clock
        searched.tuner.oracle.max_consecutive_failed_trials = MOST_FAILURES
        # With validation data of its own, and an early stopping of ours, AutoKeras takes the best trial's weights;
        # otherwise it trains the winner again from the start, after the minutes.
        searched.fit(
            *train,
            validation_data=validation,
            callbacks=[keras.callbacks.EarlyStopping(monitor="val_accuracy", mode="max", patience=PATIENCE), clock],
            verbose=2,
        )
        end = time.monotonic()
        predicted = searched.predict(test.pixels, verbose=0).reshape(-1)
        write(
            arguments.output, searched.tuner, searched.export_model(), test, predicted, clock.begin, end,
            versions={"autokeras": ak.__version__}, space=arguments.space,
        )  # fmt: skip


def search_of(space, folder, seed):
    """A search that is yet to begin, judging by validation accuracy."""
    shared = {"max_trials": MOST_TRIALS, "objective": "val_accuracy", "directory": folder, "seed": seed}
    if space == "default":
        return ak.ImageClassifier(tuner=DefaultTuner, **shared)
    image = ak.ImageInput()
    output = ak.ClassificationHead()(ak.ImageBlock(block_type="vanilla")(image))
    return ak.AutoModel(image, output, tuner=PlainTuner, **shared)


if __name__ == "__main__":
    main()
