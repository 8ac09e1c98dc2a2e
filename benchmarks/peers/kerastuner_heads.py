"""KerasTuner's Hyperband on heads behind a frozen, pretrained MobileNetV2: the best that it finds in some minutes.

The frozen network runs once over all images, as Keras' guide to transfer learning advises, and the heads train on what
it says: with the network trained further, not one pass over the images at 224 px would end in ten minutes.
"""

import tempfile
import time
from pathlib import Path

import keras
import keras_tuner
from keras import layers
from keras_mobilenet import mobilenet
from kerastuner_search import TimedHyperband
from timed import Clock, arguments_of, read_images, split, write

WEIGHTS = "mobilenetv2_100_imagenet.safetensors"
SIZE = 224
"""What the weights were trained with, and what `tintype tune` enlarges the images to."""

FEATURES = 1280
MAX_EPOCHS = 27
"""A pass over the features takes a second, so that brackets end."""


class SearchedHead(keras_tuner.HyperModel):
    """Heads: an optional hidden layer, dropout, and the recipe.

    Args:
        classes: Number of classes.
    """

    def __init__(self, classes):
        super().__init__()
        self.classes = classes

    def build(self, hp):
        """A head with its recipe."""
        inputs = vector = keras.Input((FEATURES,))
        dropout = hp.Float("dropout", 0.0, 0.6, step=0.2)
        if width := hp.Choice("width", [0, 64, 256]):
            vector = layers.Dropout(dropout)(vector)
            vector = layers.Dense(width, activation="relu")(vector)
        vector = layers.Dropout(dropout)(vector)
        model = keras.Model(inputs, layers.Dense(self.classes)(vector))
        hp.Choice("batch_size", [32, 64, 128, 256])
        model.compile(
            optimizer=keras.optimizers.AdamW(
                hp.Float("learning_rate", 1e-4, 1e-1, sampling="log"),
                weight_decay=hp.Float("weight_decay", 1e-3, 10.0, sampling="log"),
            ),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        return model

    def fit(self, hp, model, *args, **kwargs):
        """Train it with the batches that were drawn."""
        return model.fit(*args, batch_size=hp.get("batch_size"), **kwargs)


def main() -> None:
    parser = arguments_of(__doc__)
    parser.add_argument("--weights", type=Path, required=True, help=f"folder with {WEIGHTS}")
    arguments = parser.parse_args()
    keras.utils.set_random_seed(arguments.seed)
    images, test = (read_images(arguments.data / part) for part in ("train", "test"))
    parts = split(images, arguments.seed)
    base = mobilenet(arguments.weights / WEIGHTS, SIZE)

    with tempfile.TemporaryDirectory() as folder:
        clock = Clock(arguments.minutes)
        train, validation = ((base.predict(pixels, verbose=0), labels) for pixels, labels in parts)
        seconds_of_features = time.monotonic() - clock.begin
        tuner = TimedHyperband(
            SearchedHead(len(images.classes)), objective="val_accuracy", max_epochs=MAX_EPOCHS, factor=3,
            hyperband_iterations=None, seed=arguments.seed, directory=folder, max_consecutive_failed_trials=1_000,
        )  # fmt: skip
        tuner.clock = clock
        tuner.search(*train, validation_data=validation, callbacks=[clock], verbose=2)
        (head,) = tuner.get_best_models(1)
        end = time.monotonic()
        predicted = head.predict(base.predict(test.pixels, verbose=0), verbose=0).argmax(axis=-1)
        write(
            arguments.output, tuner, head, test, predicted, clock.begin, end,
            parameters=base.count_params() + head.count_params(), seconds_of_features=seconds_of_features,
        )  # fmt: skip


if __name__ == "__main__":
    main()
