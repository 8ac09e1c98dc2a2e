"""Named networks, each a text in the layer language."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from tintype.errors import ConfigError


@dataclass(frozen=True)
class ZooEntry:
    """A named network.

    Attributes:
        name: What ``--model`` takes.
        layers: Its text, without the output layer.
        image_size: Side in pixels of the images it was made for.
        channels: 1 (grey) or 3 (colour).
        classes: Classes it was made for.
        description: One line.
        source: Where it comes from.
    """

    name: str
    layers: str
    image_size: int
    channels: int
    classes: int
    description: str
    source: str


def names() -> tuple[str, ...]:
    """Every name of the zoo, in the order in which they are shown."""
    return tuple(_ENTRIES)


def find(name: str) -> ZooEntry:
    """The network of that name.

    Raises:
        ConfigError: There is none; the message lists names that are close.
    """
    if name in _ENTRIES:
        return _ENTRIES[name]
    near = difflib.get_close_matches(name, _ENTRIES, n=3, cutoff=0.5)
    hint = f"Did you mean {' or '.join(near)}?" if near else "`tintype summary --list` prints the names."
    raise ConfigError(f"there is no network named {name[:60]!r}. {hint} A network of your own is module:function.")


def default_layers(image_size: int, channels: int, images: int, classes: int) -> str:
    """A small modern network from scratch, as text, sized to the images and to how many there are.

    Args:
        image_size: Side of the square images in pixels.
        channels: 1 (grey) or 3 (colour).
        images: Training images.
        classes: Number of classes.
    """
    if channels == 1 and image_size <= 40:
        return _small_grey(image_size)
    return _residual_net(image_size, images, classes)


def _small_grey(image_size: int) -> str:
    """Plain convolutions for small grey images, such as digits."""
    # Below 20 pixels a stride at the start would leave nothing to look at.
    text = ["conv 16 5 stride=2" if image_size >= 20 else "conv 32 3"]
    size = -(-image_size // 2) if image_size >= 20 else image_size
    for line in ("conv 32 3", "conv 64 3", "conv 96 3"):
        text += [f"{line} bias=no", "bn", "relu"]
        if size >= 6 and line != "conv 96 3":
            text.append("pool 2")
            size = -(-size // 2)
    return _repeat([f"{text[0]} bias=no", "bn", "relu", *text[1:], "gmp"])


def _residual_net(image_size: int, images: int, classes: int) -> str:
    """A stem and three or four residual stages that halve the map until 4 to 8 pixels a side are left."""
    # Few images of few classes ask for fewer channels, for the sake of time and of overfitting.
    width = 32 if images >= 1_000 or classes > 10 else 16
    # Photographs bear a coarse first look; in small images every pixel counts.
    size, stem_stride = (-(-image_size // 2), " stride=2") if image_size >= 96 else (image_size, "")
    stages: list[str] = []
    for filters in (width, 2 * width, 4 * width, 8 * width):
        halve = size >= 8 and (stages or size >= 48)
        if filters == 8 * width and not halve:
            break
        stages.append(f"residual {filters} stride=2" if halve else f"residual {filters}")
        size = -(-size // 2) if halve else size
    return _repeat([f"conv {width * 3 // 4} 3{stem_stride} bias=no", "bn", "relu", *stages, "gap"])


def _repeat(lines: list[str], times: int = 1) -> str:
    return "".join(f"{line}\n" for line in lines * times)


def _tiny_cnn() -> str:
    lines = []
    for filters in (16, 32, 64):
        lines += [f"conv {filters} 3 relu", "bn", f"conv {filters} 3 pad=valid relu", "bn"]
        lines += ["pool 2 pad=valid", "dropout 0.25"]
    lines += ["conv 64 3 relu", "bn", "pool 2 pad=valid", "dropout 0.25", "gap", "relu", "dropout 0.5"]
    return _repeat(lines)


def _mnist_tutorial(batch_norms: int = 0, third: bool = False) -> str:
    """The Keras tutorial's network, with batch normalisation after its first convolutions or a third one."""
    lines = ["conv 32 3 pad=valid relu"] + ["bn"] * (batch_norms >= 1)
    lines += ["conv 64 3 pad=valid relu"] + ["bn"] * (batch_norms >= 2)
    lines += ["pool 2 pad=valid"]
    if third:
        lines += ["conv 64 3 pad=valid relu", "pool 2 pad=valid"]
    return _repeat([*lines, "dropout 0.25", "flatten", "dense 128 relu", "dropout 0.5"])


def mnist_ablation(bn: bool = False, kernel: int = 3, third: int = 64, dense: int = 128) -> str:
    """One row of the labs' ablation of the tutorial's network with a third convolution.

    Args:
        bn: Batch normalisation after each convolution.
        kernel: Kernel size of each convolution.
        third: Filters of the third convolution.
        dense: Units of the dense layer.
    """
    lines = []
    for filters in (32, 64, third):
        lines += [f"conv {filters} {kernel} pad=valid relu"] + ["bn"] * bn
        lines += ["pool 2 pad=valid"] * (filters != 32)
    return _repeat([*lines, "dropout 0.25", "flatten", f"dense {dense} relu", "dropout 0.5"])


def _cifar_resnet(blocks: int) -> str:
    stages = [f"residual {filters} repeat={blocks} shortcut=pad" for filters in (16, 32, 64)]
    stages[1:] = [stage.replace("repeat", "stride=2 repeat") for stage in stages[1:]]
    return _repeat(["conv 16 3 bias=no", "bn", "relu", *stages, "gap"])


_CATS_DOGS_SAMPLE = """\
conv 32 3 pad=valid relu
pool 2 pad=valid
conv 32 3 pad=valid relu
pool 2 pad=valid
conv 64 3 pad=valid relu
pool 2 pad=valid
flatten
dense 64 relu
dropout 0.5
"""

_CATS_DOGS = (
    _repeat(["conv 64 5 relu", "pool 3 stride=2", "bn"], 3)
    + """\
flatten
dense 384 relu
dropout 0.5
dense 192 relu
dense 64 relu
dense 32 relu
"""
)

_ALEXNET_32 = """\
conv 96 3 stride=2 relu
pool 2 pad=valid
bn
conv 256 5 relu
pool 3 stride=2 pad=valid
bn
conv 384 3 relu
conv 384 3 relu
conv 256 3 relu
pool 3 stride=2 pad=valid
bn
flatten
dense 4096 tanh
dropout 0.5
dense 4096 tanh
dropout 0.5
"""

_MNIST_CONVNET = """\
conv 16 5
bn
relu
pool 2
conv 32 5
bn
relu
pool 2
flatten
"""

_ABLATION = {
    "mnist_ablation": mnist_ablation(),
    "mnist_ablation_bn": mnist_ablation(bn=True),
    "mnist_ablation_kernel5": mnist_ablation(kernel=5),
    "mnist_ablation_conv128": mnist_ablation(third=128),
    "mnist_ablation_dense5": mnist_ablation(dense=5),
    "mnist_ablation_dense64": mnist_ablation(dense=64),
    "mnist_ablation_dense1000": mnist_ablation(dense=1000),
    "mnist_ablation_bn_kernel5_conv128": mnist_ablation(bn=True, kernel=5, third=128),
}

_KERAS = "Keras' tutorial for MNIST"
_RESNET = "He et al., Deep Residual Learning for Image Recognition (2015), section 4.2"


def _mnist(name: str, layers: str, description: str, source: str = _KERAS) -> ZooEntry:
    return ZooEntry(name, layers, 28, 1, 10, description, source)


_ENTRIES: dict[str, ZooEntry] = {
    entry.name: entry
    for entry in [
        ZooEntry(
            "cats_dogs_sample",
            _CATS_DOGS_SAMPLE,
            150,
            3,
            2,
            "three small convolutions and one dense layer",
            "Chollet, Building powerful image classification models using very little data (2016)",
        ),
        ZooEntry(
            "cats_dogs",
            _CATS_DOGS,
            180,
            3,
            2,
            "three 5x5 convolutions with batch normalisation, four dense layers",
            "a class challenge, cats against dogs",
        ),
        ZooEntry(
            "tiny_cnn", _tiny_cnn(), 32, 3, 200, "seven convolutions of 16 to 64", "a class challenge on Tiny ImageNet"
        ),
        ZooEntry(
            "alexnet_32",
            _ALEXNET_32,
            32,
            3,
            200,
            "AlexNet for images of 32 pixels",
            "after Krizhevsky et al., ImageNet Classification with Deep Convolutional Neural Networks (2012)",
        ),
        _mnist(
            "mlp_128",
            _repeat(["flatten", "dense 128 relu", "dropout 0.2"]),
            "one hidden layer",
            "TensorFlow's quickstart",
        ),
        _mnist(
            "mlp_128_128",
            _repeat(["flatten", *["dense 128 relu", "dropout 0.2"] * 2]),
            "two hidden layers",
            "TensorFlow's quickstart",
        ),
        _mnist(
            "mnist_convnet",
            _MNIST_CONVNET,
            "two 5x5 convolutions with batch normalisation",
            "a PyTorch tutorial for MNIST",
        ),
        _mnist("mnist_tutorial", _mnist_tutorial(), "two 3x3 convolutions and one dense layer"),
        _mnist("mnist_tutorial_bn1", _mnist_tutorial(1), "with batch normalisation after the first convolution"),
        _mnist("mnist_tutorial_bn2", _mnist_tutorial(2), "with batch normalisation after both convolutions"),
        _mnist("mnist_tutorial_conv3", _mnist_tutorial(third=True), "with a third convolution and pool"),
        *(_mnist(name, text, "a row of the ablation of mnist_tutorial_conv3") for name, text in _ABLATION.items()),
        *(
            ZooEntry(
                f"resnet{6 * blocks + 2}", _cifar_resnet(blocks), 32, 3, 10, "residual network for CIFAR-10", _RESNET
            )
            for blocks in (3, 5, 7, 9)
        ),
    ]
}
