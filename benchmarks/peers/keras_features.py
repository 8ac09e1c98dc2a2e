"""Keras: MobileNetV2's features of the cat and dog photos, from JPEG files to an array, in images per second.

Finding the files, building the network and `predict` count. The weights are random, which changes nothing in the work.
"""

import argparse
import json
import time

import keras
import tensorflow as tf


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="folder with cats_dogs/train")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    keras.utils.set_random_seed(arguments.seed)
    size = (arguments.image_size, arguments.image_size)

    begin = time.perf_counter()
    generator = tf.keras.preprocessing.image.ImageDataGenerator(
        preprocessing_function=keras.applications.mobilenet_v2.preprocess_input
    )
    flow = generator.flow_from_directory(
        f"{arguments.data}/cats_dogs/train", target_size=size, batch_size=32, class_mode="binary", shuffle=False
    )
    model = keras.applications.MobileNetV2(weights=None, include_top=False, pooling="avg", input_shape=(*size, 3))
    features = model.predict(flow, verbose=0)
    seconds = time.perf_counter() - begin
    assert features.shape == (flow.samples, 1280)
    rate = len(features) / seconds
    print(
        json.dumps(
            {
                "measures": {"cold_images_per_second": rate, "warm_images_per_second": rate},
                "seconds": seconds,
                "images": len(features),
                "versions": {"keras": keras.__version__, "tensorflow": tf.__version__},
            }
        )
    )


if __name__ == "__main__":
    main()
