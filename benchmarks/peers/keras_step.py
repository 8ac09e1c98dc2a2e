"""Keras: training images per second of the labs' networks A2 and E3 on batches held in memory.

One batch is made once as a tensor and repeated, so that neither files nor augmentation nor copying is measured.
``--policy mixed_bfloat16`` measures Keras' own reduced precision.
"""

import argparse
import json
import time

import keras
import numpy as np
import tensorflow as tf
from keras import layers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="not used: the images are noise")
    parser.add_argument("--network", choices=["a2", "e3"], required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=0, help="0: 12 for a2, 120 for e3")
    parser.add_argument("--policy", default="float32")
    arguments = parser.parse_args()
    keras.utils.set_random_seed(arguments.seed)
    keras.mixed_precision.set_global_policy(arguments.policy)

    random = np.random.default_rng(arguments.seed)
    if arguments.network == "a2":
        model, batch, steps = a2(), 64, arguments.steps or 12
        labels = random.integers(0, 2, size=(batch, 1)).astype("float32")
    else:
        model, batch, steps = e3(), 128, arguments.steps or 120
        labels = keras.utils.to_categorical(random.integers(0, 10, size=batch), 10)
    images = random.random((batch, *model.input_shape[1:]), dtype=np.float32)
    data = tf.data.Dataset.from_tensors((tf.constant(images), tf.constant(labels))).repeat()

    model.fit(data, steps_per_epoch=max(3, steps // 4), verbose=0)
    begin = time.perf_counter()
    model.fit(data, steps_per_epoch=steps, verbose=0)
    seconds = time.perf_counter() - begin
    print(
        json.dumps(
            {
                "measures": {f"{arguments.network}_images_per_second": steps * batch / seconds},
                "parameters": model.count_params(),
                "versions": {"keras": keras.__version__, "tensorflow": tf.__version__},
            }
        )
    )


def a2() -> keras.Model:
    """The cat network: 13,300,033 parameters."""
    model = keras.Sequential([layers.Input((180, 180, 3))])
    for _ in range(3):
        model.add(layers.Conv2D(64, 5, padding="same", activation="relu"))
        model.add(layers.MaxPooling2D(3, strides=2, padding="same"))
        model.add(layers.BatchNormalization())
    model.add(layers.Flatten())
    model.add(layers.Dense(384, activation="relu"))
    model.add(layers.Dropout(0.5))
    for units in (192, 64, 32):
        model.add(layers.Dense(units, activation="relu"))
    model.add(layers.Dense(1, activation="sigmoid", dtype="float32"))
    model.compile(
        optimizer=keras.optimizers.RMSprop(learning_rate=1e-3, rho=0.95),
        loss="binary_crossentropy",
        metrics=["accuracy"],
    )
    return model


def e3() -> keras.Model:
    """The MNIST tutorial network with Adadelta."""
    model = keras.Sequential(
        [
            layers.Input((28, 28, 1)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Dropout(0.25),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dropout(0.5),
            layers.Dense(10, activation="softmax", dtype="float32"),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.Adadelta(learning_rate=1.0),
        loss="categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


if __name__ == "__main__":
    main()
