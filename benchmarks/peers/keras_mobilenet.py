"""Keras' MobileNetV2 with the weights that timm reads, so that both libraries start from the same network."""

import json
import struct
from pathlib import Path

import keras
import numpy as np
from keras import layers

KERAS_EPSILON, TIMM_EPSILON = 1e-3, 1e-5
"""Of batch normalisation: Keras' network and timm's, for which the file's statistics are meant."""


def mobilenet(weights, size):
    """MobileNetV2 without its classifier, frozen, from images of bytes of any size to 1,280 values each.

    The file says that these weights pad as TensorFlow does, which is how Keras' network pads.

    Args:
        weights: A safetensors file with timm's names.
        size: Side in pixels to which images are brought first.
    """
    tensors = read_safetensors(weights)
    base = keras.applications.MobileNetV2((size, size, 3), include_top=False, weights=None, pooling="avg")
    names = iter(timm_names(tensors))
    for layer in base.layers:
        if isinstance(layer, layers.DepthwiseConv2D):
            layer.set_weights([tensors[f"{next(names)}.weight"].transpose(2, 3, 0, 1)])
        elif isinstance(layer, layers.Conv2D):
            layer.set_weights([tensors[f"{next(names)}.weight"].transpose(2, 3, 1, 0)])
        elif isinstance(layer, layers.BatchNormalization):
            layer.set_weights(normalisation(tensors, next(names)))
    if next(names, None) is not None:
        raise ValueError(f"{weights} has more layers than MobileNetV2.")
    base.trainable = False
    inputs = keras.Input((None, None, 3))
    resized = layers.Rescaling(1 / 127.5, -1)(layers.Resizing(size, size)(inputs))
    return keras.Model(inputs, base(resized, training=False))


def timm_names(tensors):
    """Names of the convolutions and normalisations from the input to the features, in the order of computing."""
    yield from ("conv_stem", "bn1")
    blocks = sorted({tuple(map(int, name.split(".")[1:3])) for name in tensors if name.startswith("blocks.")})
    for stage, block in blocks:
        prefix = f"blocks.{stage}.{block}"
        expands = f"{prefix}.conv_pwl.weight" in tensors
        kinds = ("conv_pw", "conv_dw", "conv_pwl") if expands else ("conv_dw", "conv_pw")
        for number, kind in enumerate(kinds, 1):
            yield from (f"{prefix}.{kind}", f"{prefix}.bn{number}")
    yield from ("conv_head", "bn2")


def normalisation(tensors, name):
    """Scale, shift, mean and variance, the last such that Keras' larger epsilon changes nothing."""
    scale, shift, mean, variance = (
        tensors[f"{name}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
    )
    return [scale, shift, mean, variance + TIMM_EPSILON - KERAS_EPSILON]


def read_safetensors(path):
    """Name to array of the 32-bit floats in a safetensors file."""
    data = Path(path).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    found = {}
    for name, entry in header.items():
        if entry.get("dtype") == "F32":
            begin, end = (8 + length + offset for offset in entry["data_offsets"])
            found[name] = np.frombuffer(data[begin:end], "<f4").reshape(entry["shape"])
    return found
