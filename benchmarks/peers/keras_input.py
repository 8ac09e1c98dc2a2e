"""Keras: the cat and dog photos through ImageDataGenerator, as its users write it.

Measures the first epoch (finding the files included) and the mean rate of the epochs after it.
"""

import argparse
import json
import time

import keras
import tensorflow as tf


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder with cats_dogs/train")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--warm-epochs", type=int, default=2)
    arguments = parser.parse_args()

    begin = time.perf_counter()
    generator = tf.keras.preprocessing.image.ImageDataGenerator(
        rescale=1.0 / 255,
        rotation_range=15,
        shear_range=5.0,
        zoom_range=0.2,
        width_shift_range=0.1,
        height_shift_range=0.1,
        horizontal_flip=True,
    )
    flow = generator.flow_from_directory(
        f"{arguments.data}/cats_dogs/train",
        target_size=(180, 180),
        batch_size=64,
        class_mode="binary",
        seed=arguments.seed,
    )
    epoch(flow)
    first = time.perf_counter() - begin
    begin = time.perf_counter()
    images = sum(epoch(flow) for _ in range(arguments.warm_epochs))
    seconds = time.perf_counter() - begin
    print(
        json.dumps(
            {
                "measures": {
                    "warm_images_per_second": images / seconds,
                    "first_epoch_seconds": first,
                },
                "versions": {"keras": keras.__version__, "tensorflow": tf.__version__},
            }
        )
    )


def epoch(flow) -> int:
    """Take every batch once; gives the number of images."""
    count = 0
    for number in range(len(flow)):
        images, labels = flow[number]
        assert images.shape[1:] == (180, 180, 3)
        assert len(labels) == len(images)
        count += len(images)
    flow.on_epoch_end()
    return count


if __name__ == "__main__":
    main()
