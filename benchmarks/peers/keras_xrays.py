"""Keras: the labs' COVID network (VGG16 frozen, a dense head) from image files to the end of training.

``--measured-epochs`` of the 40 epochs are run. All do the same work, only the first compiles: the time of those left
out is the mean of the measured ones after the first. With ``--measured-epochs 40`` nothing is extrapolated.
The weights are random, which changes nothing in the work.
"""

import argparse
import itertools
import json
import time

import keras
import tensorflow as tf
from keras import layers

CLASSES = ["covid", "normal"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder with train/ and val/, each with two classes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--measured-epochs", type=int, default=4)
    parser.add_argument("--image-size", type=int, default=224)
    arguments = parser.parse_args()
    keras.utils.set_random_seed(arguments.seed)

    begin = time.perf_counter()
    train, validation = flow(arguments, "train"), flow(arguments, "val")
    model = network(arguments.image_size)
    begins, ends = [], []
    clock = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda *_: begins.append(time.perf_counter()),
        on_epoch_end=lambda *_: ends.append(time.perf_counter()),
    )
    model.fit(
        # Without an end: Keras stops an epoch short where a generator with a length is used up.
        (next(train) for _ in itertools.count()),
        steps_per_epoch=10,
        epochs=arguments.measured_epochs,
        validation_data=validation,
        callbacks=[clock],
        verbose=0,
    )
    measured = time.perf_counter() - begin
    left_out = arguments.epochs - arguments.measured_epochs
    epochs = [end - start for start, end in zip(begins, ends, strict=True)]
    typical = sum(epochs[1:]) / max(1, len(epochs) - 1)
    print(
        json.dumps(
            {
                "measures": {"seconds": measured + left_out * typical},
                "measured_seconds": measured,
                "epoch_seconds": epochs,
                "epochs_left_out": left_out,
                "parameters": model.count_params(),
                "trainable_parameters": sum(int(tf.size(weight)) for weight in model.trainable_weights),
                "images": {"train": train.samples, "validation": validation.samples},
                "versions": {"keras": keras.__version__, "tensorflow": tf.__version__},
            }
        )
    )


def flow(arguments: argparse.Namespace, split: str):
    """The images of a split in batches of 10, decoded anew each epoch."""
    generator = tf.keras.preprocessing.image.ImageDataGenerator(
        preprocessing_function=keras.applications.vgg16.preprocess_input
    )
    size = (arguments.image_size, arguments.image_size)
    return generator.flow_from_directory(
        f"{arguments.data}/{split}",
        target_size=size,
        batch_size=10,
        classes=CLASSES,
        class_mode="binary",
        shuffle=split == "train",
        seed=arguments.seed,
    )


def network(size: int) -> keras.Model:
    """At 224 px 21,139,777 parameters, of which 6,424,065 trainable."""
    base = keras.applications.VGG16(weights=None, include_top=False, input_shape=(size, size, 3))
    base.trainable = False
    model = keras.Sequential(
        [
            base,
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dense(256, activation="relu", kernel_regularizer=keras.regularizers.l2(0.01)),
            layers.Dropout(0.3),
            layers.Dense(1, activation="sigmoid"),
        ]
    )
    model.compile(optimizer=keras.optimizers.Adam(1e-3), loss="binary_crossentropy", metrics=["accuracy"])
    return model


if __name__ == "__main__":
    main()
