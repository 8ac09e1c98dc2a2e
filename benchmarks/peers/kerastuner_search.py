"""KerasTuner's Hyperband on networks from scratch: the best that it finds in some minutes.

The space is that of `tintype tune` without averaged weights: plain or residual networks, augmentation, recipe. Only the
largest networks differ: KerasTuner's stages are whole passes over the images, and a network of more than ``MOST_WORK``
would not make the first in its time, so that wider ones are made narrower.
"""

import math
import tempfile
import time

import keras
import keras_tuner
import numpy as np
from keras import layers
from timed import SIDE, Clock, Timed, arguments_of, read_images, split, write

MAX_EPOCHS, FACTOR = 9, 3
"""Hyperband's first bracket: nine networks see all images once, three go on to three epochs, one to nine. That is about
what ten minutes on two cores hold; with 27 they would be over before a network had trained for more than three."""

MOST_WORK = 64e6
"""Multiply-adds for an image, those of tintype's default network: 9,000 images then take Keras up to half a minute."""


class SearchedNetwork(keras_tuner.HyperModel):
    """Networks and recipes.

    Args:
        classes: Number of classes.
        images: Number of training images.
    """

    def __init__(self, classes, images):
        super().__init__()
        self.classes = classes
        self.images = images

    def build(self, hp):
        """A network with its recipe."""
        chosen = draw_network(hp)
        width = chosen.pop("width")
        while True:
            model = network(width=width, classes=self.classes, **chosen)
            work = work_of(model)
            if work <= MOST_WORK or width <= 8:
                break
            width = max(8, int(width * math.sqrt(MOST_WORK / work)) // 8 * 8)
        model.compile(
            optimizer=self._optimizer(hp, 1.0 if chosen["norm"] or chosen["residual"] else 0.1),
            loss=keras.losses.CategoricalCrossentropy(
                from_logits=True, label_smoothing=hp.Float("label_smoothing", 0.0, 0.2, step=0.05)
            ),
            metrics=["accuracy"],
        )
        return model

    def fit(self, hp, model, *args, **kwargs):
        """Train it with the batches that were drawn."""
        return model.fit(*args, batch_size=hp.get("batch_size"), **kwargs)

    def _optimizer(self, hp, share):
        """Rates and decays as in tintype's search; without normalisation a tenth of the rate."""
        batch = hp.Choice("batch_size", [16, 32, 64, 128])
        name = hp.Choice("optimizer", ["adamw", "sgd"])
        rate = 0.1 * batch / 128 if name == "sgd" else 4e-3 * math.sqrt(batch / 64)
        rate *= share * hp.Float("learning_rate_factor", 0.2, 4.0, sampling="log")
        decay = hp.Float("weight_decay_factor", 0.05, 5.0, sampling="log")
        if hp.Choice("schedule", ["constant", "cosine"]) == "cosine":
            epochs = hp.values.get("tuner/epochs", MAX_EPOCHS) - hp.values.get("tuner/initial_epoch", 0)
            steps = epochs * math.ceil(self.images / batch)
            rate = keras.optimizers.schedules.CosineDecay(
                rate / 10, steps - steps // 5, warmup_target=rate, warmup_steps=steps // 5
            )
        if name == "sgd":
            # Keras' decay bypasses the momentum of 0.9, which makes the usual 5e-4 of others ten times as much.
            return keras.optimizers.SGD(rate, momentum=0.9, nesterov=True, weight_decay=5e-3 * decay)
        return keras.optimizers.AdamW(rate, weight_decay=0.05 * decay)


def draw_network(hp):
    """Arguments of :func:`network`, drawn by a tuner."""
    return {
        "residual": hp.Choice("family", ["residual", "plain"]) == "residual",
        "reduction": hp.Choice("reduction", [2, 4]),
        "width": hp.Int("width", 16, 96, sampling="log"),
        "growth": hp.Float("growth", 1.25, 2.0, step=0.25),
        "stages": hp.Int("stages", 2, 4),
        "blocks": hp.Int("blocks", 1, 3),
        "kernel": hp.Choice("kernel", [3, 5]),
        "norm": hp.Boolean("norm", default=True),
        "pooling": hp.Choice("pooling", ["stride", "max", "avg"]),
        "head": hp.Choice("head", ["gap", "gmp", "flatten"]),
        "dense": hp.Choice("dense", [0, 64, 256]),
        "dropout": hp.Float("dropout", 0.0, 0.5, step=0.1),
        "augmentation": hp.Choice("augmentation", ["none", "light", "photo"]),
        "strength": hp.Choice("strength", [0.5, 1.0, 1.5]),
    }


def network(
    residual, reduction, width, growth, stages, blocks, kernel, norm, pooling, head, dense, dropout,
    augmentation, strength, classes,
):  # fmt: skip
    """A plain or residual network on images of bytes, with logits as its output."""
    inputs = keras.Input((SIDE, SIDE, 3))
    maps = layers.Rescaling(1 / 127.5, -1)(augmented(inputs, augmentation, strength))
    strided_stem = reduction >= (4 if residual else 2)
    stem_kernel = 5 if strided_stem and not residual else 3 if residual else kernel
    stem = width * 3 // 4 if residual else width // 2 if strided_stem else width
    maps = convolution(maps, eights(stem), stem_kernel, 2 if strided_stem else 1, norm or residual)
    for stage in range(stages):
        filters = min(512, eights(width * growth**stage))
        halves = stage > 0 or reduction >= (2 if residual else 4)
        if halves and pooling != "stride":
            maps = (layers.MaxPooling2D if pooling == "max" else layers.AveragePooling2D)(2)(maps)
        stride = 2 if halves and pooling == "stride" else 1
        for block in range(blocks):
            if residual:
                maps = residual_block(maps, filters, stride if block == 0 else 1)
            else:
                maps = convolution(maps, filters, kernel, stride if block == 0 else 1, norm)
    vector = {
        "gap": layers.GlobalAveragePooling2D, "gmp": layers.GlobalMaxPooling2D, "flatten": layers.Flatten
    }[head]()(maps)  # fmt: skip
    if dense:
        vector = layers.Dense(dense, activation="relu")(vector)
    if dropout:
        vector = layers.Dropout(dropout)(vector)
    return keras.Model(inputs, layers.Dense(classes)(vector))


def augmented(images, policy, strength):
    """The images changed as tintype's policies of these names do."""
    if policy == "none":
        return images
    images = layers.RandomFlip("horizontal")(images)
    if policy == "light":
        return layers.RandomTranslation(0.08 * strength, 0.08 * strength)(images)
    images = layers.RandomRotation(15 / 360 * strength)(images)
    images = layers.RandomZoom(0.25 * strength)(images)
    images = layers.RandomTranslation(0.12 * strength, 0.12 * strength)(images)
    images = layers.RandomBrightness(0.15 * strength)(images)
    return layers.RandomContrast(0.3 * strength)(images)


def convolution(maps, filters, kernel, stride, norm, activated=True):
    """A convolution, normalised or not, and its ReLU."""
    maps = layers.Conv2D(filters, kernel, strides=stride, padding="same", use_bias=not norm)(maps)
    maps = layers.BatchNormalization(momentum=0.9)(maps) if norm else maps
    return layers.ReLU()(maps) if activated else maps


def residual_block(maps, filters, stride):
    """Two convolutions with a shortcut."""
    shortcut = maps
    if stride != 1 or maps.shape[-1] != filters:
        shortcut = convolution(maps, filters, 1, stride, norm=True, activated=False)
    maps = convolution(maps, filters, 3, stride, norm=True)
    maps = convolution(maps, filters, 3, 1, norm=True, activated=False)
    return layers.ReLU()(layers.Add()([maps, shortcut]))


def eights(filters):
    """The nearest multiple of eight."""
    return max(8, round(filters / 8) * 8)


def work_of(model):
    """Multiply-adds of a network's convolutions and dense layers for an image."""
    found = [layer for layer in model.layers if isinstance(layer, (layers.Conv2D, layers.Dense))]
    return sum(math.prod(layer.output.shape[1:]) * math.prod(layer.kernel.shape[:-1]) for layer in found)


class TimedHyperband(Timed, keras_tuner.Hyperband):
    """Hyperband with an end in time."""


def main() -> None:
    arguments = arguments_of(__doc__).parse_args()
    keras.utils.set_random_seed(arguments.seed)
    images, test = (read_images(arguments.data / part) for part in ("train", "test"))
    parts = split(images, arguments.seed)
    classes = len(images.classes)
    train, validation = ((pixels, np.eye(classes, dtype=np.float32)[labels]) for pixels, labels in parts)

    with tempfile.TemporaryDirectory() as folder:
        clock = Clock(arguments.minutes)
        tuner = TimedHyperband(
            SearchedNetwork(classes, len(train[0])), objective="val_accuracy", max_epochs=MAX_EPOCHS, factor=FACTOR,
            hyperband_iterations=None, seed=arguments.seed, directory=folder, max_consecutive_failed_trials=1_000,
        )  # fmt: skip
        tuner.clock = clock
        tuner.search(*train, validation_data=validation, callbacks=[clock], verbose=2)
        (model,) = tuner.get_best_models(1)
        end = time.monotonic()
        predicted = model.predict(test.pixels, verbose=0).argmax(axis=-1)
        write(arguments.output, tuner, model, test, predicted, clock.begin, end)


if __name__ == "__main__":
    main()
