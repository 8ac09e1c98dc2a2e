"""The winner's layer table as a picture: a box for each layer, as large as what it gives out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from markupsafe import Markup

from tintype.records import LayerRow, ModelSummary
from tintype.report import text
from tintype.report.svg import element, join, path

BlockKind = Literal["image", "conv", "pool", "dense", "other"]

MOST_BLOCKS = 18
_TALLEST = 140.0  # height of the largest map
_WIDE = 980.0  # what a small network may be stretched to
_FLATTEST = 9.0
_DEPTH = 0.34  # offset of a box's back, as a share of its height
_LETTER = 5.7
_VECTOR = 9.0  # width of a vector
_TOP, _LABELS = 8.0, 46.0
_GAPS = (12.0, 40.0)  # between two boxes, the least and the most
_BASE = _TOP + _TALLEST * (1 + _DEPTH) + 14  # where the words begin
_MIDDLE = _TOP + _TALLEST * (1 + _DEPTH) / 2
_WORDS: dict[BlockKind, str] = {
    "image": "image", "conv": "convolution", "pool": "pooling", "dense": "fully connected", "other": "other layers"
}  # fmt: skip


@dataclass(frozen=True)
class Block:
    """A box: a layer that computes, and what follows it without changing the shape; or several such layers.

    Attributes:
        kind: Decides its colour.
        label: What it is, short.
        shape: What it gives out: (C, H, W) or (features,).
        parts: Each layer in it: name, kind and parameters.
        parameters: Of all its layers.
        frozen: Whether it has parameters of which none trains.
        layers: How many layers of its kind are in it.
    """

    kind: BlockKind
    label: str
    shape: tuple[int, ...]
    parts: tuple[str, ...]
    parameters: int
    frozen: bool
    layers: int = 1

    @property
    def side(self) -> int:
        """Pixels of the map's side; 0 where it is a vector."""
        return self.shape[-1] if len(self.shape) == 3 else 0


@dataclass(frozen=True)
class NetworkPicture:
    """The drawing, what stands beneath it, and style class and words of each kind of box."""

    svg: Markup
    caption: str
    legend: tuple[tuple[str, str], ...]


def network_picture(summary: ModelSummary, image: tuple[int, int, int] | None = None) -> NetworkPicture | None:
    """Draw a layer table; None for one without layers that give something out.

    Args:
        summary: The layers in the order in which they run.
        image: What goes in: (C, H, W), where it is known.
    """
    blocks = blocks_of(summary.layers)
    if not blocks:
        return None
    if image is not None:
        blocks.insert(0, Block("image", "image", image, (), 0, frozen=False))
    largest = max((block.side for block in blocks), default=0)
    labels = [block.label for block in blocks[:-1]] + ["output"]
    rooms = [_room(block, largest, label) for block, label in zip(blocks, labels, strict=True)]
    least, most = _GAPS
    gap = min(max((_WIDE - sum(rooms)) / max(len(rooms) - 1, 1), least), most)
    places = [2 + sum(rooms[:number]) + gap * number for number in range(len(rooms))]
    middles = [place + room / 2 for place, room in zip(places, rooms, strict=True)]
    parts = [element("path", d=path([middles[0], middles[-1]], [_MIDDLE] * 2), class_="flow")]
    parts += [_draw(*item, largest) for item in zip(blocks, labels, middles, strict=True)]
    width, height = places[-1] + rooms[-1] + 2, _BASE + _LABELS - 14
    spoken = "The network from the input to the output: " + ", ".join(
        f"{block.label} giving {_shape_words(block)}" for block in blocks
    )
    svg = element(
        "svg", join(parts), viewBox=f"0 0 {width:.0f} {height:.0f}", width=round(width), height=round(height),
        class_="chart network", role="img", aria_label=f"{spoken}.",
    )  # fmt: skip
    kinds = {block.kind for block in blocks}
    legend: list[tuple[str, str]] = [(kind, words) for kind, words in _WORDS.items() if kind in kinds]
    if any(block.frozen for block in blocks):
        legend.append(("frozen", "frozen"))
    caption = (
        "A box is as high as the side of its maps and as wide as it has channels, both by their square roots. "
        "Normalisation, activations and dropout stand with the layer before them."
    )
    if any(block.layers > 1 for block in blocks):
        caption += " Layers with maps of the same size are drawn as one box."
    return NetworkPicture(svg, caption, tuple(legend))


def blocks_of(layers: Iterable[LayerRow]) -> list[Block]:
    """The boxes of a layer table; where there would be more than :data:`MOST_BLOCKS`, layers of a size become one."""
    blocks: list[Block] = []
    for row in layers:
        if not row.output_shape:
            continue
        kind = _kind(row)
        part = f"{row.name}: {row.kind}" + (f", {text.count(row.parameters)} parameters" if row.parameters else "")
        if blocks and (_is_beside(row) or (kind == "other" and row.output_shape == blocks[-1].shape)):
            last = blocks[-1]
            blocks[-1] = replace(
                last, parts=(*last.parts, part), parameters=last.parameters + row.parameters,
                frozen=last.frozen and not row.trainable_parameters,
            )  # fmt: skip
        else:
            frozen = row.parameters > 0 and row.trainable_parameters == 0
            blocks.append(Block(kind, _short(row.kind), row.output_shape, (part,), row.parameters, frozen))
    return blocks if len(blocks) <= MOST_BLOCKS else [_merged(group) for group in _by_size(blocks)]


def _by_size(blocks: Sequence[Block]) -> list[list[Block]]:
    """Neighbours whose maps are of one size, apart where freezing ends; vectors stay by themselves."""
    groups: list[list[Block]] = []
    last: tuple[int, bool] | None = None
    is_frozen = True
    for block in blocks:
        is_frozen = is_frozen and (block.frozen or not block.parameters)
        key = (block.side, is_frozen)
        if block.side and key == last:
            groups[-1].append(block)
        else:
            groups.append([block])
        last = key
    return groups


def _merged(blocks: Sequence[Block]) -> Block:
    if len(blocks) == 1:
        return blocks[0]
    kinds = Counter(block.kind for block in blocks if block.parameters) or Counter(block.kind for block in blocks)
    kind, amount = kinds.most_common(1)[0]
    weighted = [block for block in blocks if block.parameters]
    return Block(
        kind,
        f"{amount} {'conv' if kind == 'conv' else 'layer'}{'s' if amount > 1 else ''}",
        blocks[-1].shape,
        tuple(part for block in blocks for part in block.parts),
        sum(block.parameters for block in blocks),
        bool(weighted) and all(block.frozen for block in weighted),
        amount,
    )


def _kind(row: LayerRow) -> BlockKind:
    if row.kind.startswith("conv"):
        return "conv"
    if "pool" in row.kind:
        return "pool"
    return "dense" if row.kind == "dense" else "other"


def _is_beside(row: LayerRow) -> bool:
    """A layer of a shortcut runs beside the others, not after them."""
    return any(word in row.name.split(".") for word in ("shortcut", "downsample"))


def _short(kind: str) -> str:
    """A layer's kind in a few letters: ``conv 3x3 stride 2`` is ``conv 3 /2``."""
    words = kind.split()
    if words[:2] == ["global", "average"]:
        return "mean"
    if words[:2] == ["global", "max"]:
        return "largest"
    named = [word for word in words if word not in ("max", "average")]
    sizes = [word.split("x")[0] for word in named if word[0].isdigit() and "x" in word]
    stride = [f"/{named[named.index('stride') + 1]}"] if "stride" in named else []
    return " ".join([named[0], *sizes[:1], *stride])[:12]


def _words(block: Block, label: str) -> tuple[str, str, str]:
    """What stands beneath a box."""
    channels = text.count(block.shape[0] if block.side else block.shape[-1])
    return (label, f"{block.side} px", f"{channels} ch.") if block.side else (label, channels, "values")


def _room(block: Block, largest: int, label: str) -> float:
    """Width that a box takes, or its words."""
    width, _, back = _size(block, largest)
    return max(width + back, _LETTER * max(map(len, _words(block, label))))


def _draw(block: Block, label: str, middle: float, largest: int) -> Markup:
    """A box with its words beneath, about a place on the horizontal axis."""
    width, height, back = _size(block, largest)
    faces = _box(middle - (width + back) / 2, _MIDDLE - (height - back) / 2, width, height, back)
    labels = [
        element("text", word, x=middle, y=_BASE + 13 * line, text_anchor="middle", class_=style)
        for line, (word, style) in enumerate(zip(_words(block, label), ("name", None, None), strict=True))
    ]
    facts = f"{_shape_words(block)}, {text.plural(block.parameters, 'parameter')}"
    hint = element("title", "\n".join([facts, *block.parts]))
    style = f"block-{block.kind}{' frozen' if block.frozen else ''}"
    return element("g", hint, *faces, *labels, class_=style)


def _size(block: Block, largest: int) -> tuple[float, float, float]:
    """Width, height and depth of a box."""
    if not block.side:
        return _VECTOR, min(max(5 * math.sqrt(block.shape[-1]), 1.5 * _VECTOR), _TALLEST), 0.0
    height = max(_TALLEST * math.sqrt(block.side / largest), _FLATTEST)
    return 3 + 1.1 * math.sqrt(block.shape[0]), height, _DEPTH * height


def _box(x: float, top: float, width: float, height: float, back: float) -> list[Markup]:
    """The front of a box and, where it has a depth, its top and its right side."""
    front = element("rect", x=x, y=top, width=width, height=height, class_="face")
    if not back:
        return [front]
    right, bottom = x + width, top + height
    lid = path([x, x + back, right + back, right], [top, top - back, top - back, top])
    side = path([right, right + back, right + back, right], [top, top - back, bottom - back, bottom])
    return [
        front,
        element("path", d=f"{lid}Z", class_="face top-face"),
        element("path", d=f"{side}Z", class_="face map-face"),
    ]


def _shape_words(block: Block) -> str:
    return " × ".join(text.count(size) for size in block.shape)
