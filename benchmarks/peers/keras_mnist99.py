"""Keras: training seconds to 99.0 % test accuracy on MNIST with the tutorial network and Adam.

Tested four times an epoch; neither the tests nor reading the files count, compiling the first step does.
"""

import argparse
import gzip
import json
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import layers

BATCH = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder with mnist/*.gz")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", type=float, default=0.99)
    parser.add_argument("--max-epochs", type=int, default=15)
    arguments = parser.parse_args()
    keras.utils.set_random_seed(arguments.seed)

    folder = Path(arguments.data) / "mnist"
    images, labels = read(folder, "train")
    test_images, test_labels = read(folder, "t10k")
    model = tutorial_network()
    order = np.random.default_rng(arguments.seed)
    seconds, curve = 0.0, []
    for _ in range(arguments.max_epochs):
        for part in np.array_split(order.permutation(len(images)), 4):
            part_images, part_labels = images[part], labels[part]
            begin = time.perf_counter()
            model.fit(part_images, part_labels, batch_size=BATCH, shuffle=False, verbose=0)
            seconds += time.perf_counter() - begin
            accuracy = model.evaluate(test_images, test_labels, batch_size=1000, verbose=0, return_dict=True)[
                "accuracy"
            ]
            curve.append([round(seconds, 3), round(accuracy, 4)])
            if accuracy >= arguments.target:
                break
        else:
            continue
        break
    print(
        json.dumps(
            {
                "measures": {"seconds_to_target": seconds if curve[-1][1] >= arguments.target else None},
                "curve": curve,
                "versions": {"keras": keras.__version__, "tensorflow": tf.__version__},
            }
        )
    )


def read(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Images as float32 0 to 1 of shape (N, 28, 28, 1) and one-hot labels of shape (N, 10)."""
    pixels = np.frombuffer(gzip.decompress((folder / f"{name}-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16)
    digits = np.frombuffer(gzip.decompress((folder / f"{name}-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8)
    return pixels.reshape(-1, 28, 28, 1).astype("float32") / 255, keras.utils.to_categorical(digits, 10)


def tutorial_network() -> keras.Model:
    """The MNIST tutorial network with Adam."""
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
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(optimizer="adam", loss="categorical_crossentropy", metrics=["accuracy"])
    return model


if __name__ == "__main__":
    main()
