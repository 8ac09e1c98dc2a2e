"""The resize inside an exported file: what :func:`tintype.data.pixels.shaped` does with Pillow, as ONNX operators.

Pillow's resize (Pillow, ``src/libImaging/Resample.c`` and ``Reduce.c``) is two weighted sums, one along each axis,
rounded to whole grey levels after each. So are these: two matrices of weights, made in the graph from the size of the
image, and two products. Images of more than twice the wanted size are averaged over boxes of whole pixels first
(``reducing_gap``), so that the matrices stay small. ONNX' own ``Resize`` is not used: it cannot start at a fraction of
a pixel, where a centre crop of an odd difference and the end of a box that is cut off by the image lie.

An image of the model's own size comes out unchanged, by a shortcut that computes nothing.
"""

from __future__ import annotations

import numpy as np
import PIL
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from tintype.data.pixels import Geometry
from tintype.serving.nodes import Given, Nodes

OPSET = 18
"""The lowest version with all operators; higher ones say nothing more to what is used here."""

IR_VERSION = 10

IMAGES, RESIZED = "images", "resized"
"""Names of what goes in and comes out."""

_ROWS, _COLUMNS = 0, 1
_GREY = np.array([[19595], [38470], [7471]], np.float32)  # of 65,536: Pillow's Convert.c, ITU-R 601-2
_TALL_FIRST = 13


def resize_model(geometry: Geometry) -> ModelProto:
    """A graph from images of any one size to the model's own.

    Args:
        geometry: Size, channels and resize policy of the model.

    Returns:
        A model from ``images``, uint8, (N, H, W, 3), to ``resized``, uint8, (N, C, S, S). Whole grey levels differ from
        Pillow's, by one, where its sums of 22-bit weights and these of 24-bit ones lie on two sides of a half.
    """
    nodes = Nodes("resize")
    planes = _grey(nodes) if geometry.channels == 1 else nodes("Transpose", IMAGES, perm=[0, 3, 1, 2])
    size_2 = nodes("Shape", IMAGES, start=1, end=3)
    equal = nodes.cast(nodes("Equal", size_2, np.full(2, geometry.size, np.int64)), np.int64)
    is_own = nodes.cast(nodes("ReduceMin", equal, keepdims=0), np.bool_)
    own, other = nodes.branch("own"), nodes.branch("other")
    resized = _resized(other, planes, nodes.cast(size_2, np.float64), geometry)
    chosen = nodes.choose(is_own, own, other, (own("Identity", planes), resized))
    side, channels = geometry.size, geometry.channels
    nodes("Reshape", chosen, np.array([-1, channels, side, side]), result=RESIZED)
    graph = nodes.graph(
        [helper.make_tensor_value_info(IMAGES, TensorProto.UINT8, ["N", "H", "W", 3])],
        [helper.make_tensor_value_info(RESIZED, TensorProto.UINT8, ["N", channels, side, side])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def _grey(nodes: Nodes) -> str:
    """RGB as grey levels, (N, 1, H, W). All sums are whole numbers below 2**24, so that fp32 holds them exactly."""
    weighed = nodes("MatMul", nodes.cast(IMAGES, np.float32), _GREY)
    levels = nodes("Floor", nodes("Mul", nodes("Add", weighed, np.float32(32768)), np.float32(2**-16)))
    return nodes.cast(nodes("Transpose", levels, perm=[0, 3, 1, 2]), np.uint8)


def _resized(nodes: Nodes, planes: str, size_2: str, geometry: Geometry) -> str:
    """The planes (N, C, H, W) brought to (N, C, S, S).

    What has an axis of two holds a figure for the rows and one for the columns, all in double precision as Pillow's.
    """
    start_2, extent_2, target_2 = _box(nodes, size_2, geometry)
    step_2 = nodes("Div", extent_2, target_2)
    factor_2 = nodes("Max", nodes("Floor", nodes("Div", step_2, np.float64(2))), np.float64(1))
    # Beyond this no pixel counts: one and a half steps as Pillow has it, three pixels where an image is enlarged.
    reach_2 = nodes("Max", nodes("Mul", step_2, np.float64(1.5)), np.float64(3))
    low_2 = nodes("Max", nodes("Floor", nodes("Sub", start_2, reach_2)), np.float64(0))
    end_2 = nodes("Add", start_2, extent_2)
    high_2 = nodes("Min", nodes("Ceil", nodes("Add", end_2, reach_2)), size_2)
    used = nodes("Slice", planes, nodes.cast(low_2, np.int64), nodes.cast(high_2, np.int64), np.array([2, 3]))

    is_large = nodes("Greater", nodes("ReduceMax", factor_2, keepdims=0), np.float64(1))
    reducing, plain = nodes.branch("reduce"), nodes.branch("keep")
    averaged = _box_averages(reducing, used, nodes("Sub", high_2, low_2), factor_2, geometry.channels)
    reduced = nodes.choose(is_large, reducing, plain, (averaged, plain.cast(used, np.float32)))

    first_2, last_2 = (
        nodes.cast(nodes("Div", nodes("Sub", edge_2, low_2), factor_2), np.float32) for edge_2 in (start_2, end_2)
    )
    length_2 = nodes("Shape", reduced, start=2, end=4)
    margin_2 = nodes("Floor", nodes("Div", nodes("Sub", np.full(2, float(geometry.size)), target_2), np.float64(2)))
    rows, columns = (
        _weights(nodes, axis, geometry.size, first_2, last_2, target_2, length_2, margin_2)
        for axis in (_ROWS, _COLUMNS)
    )
    pillow_2 = nodes("Where", is_large, nodes.cast(length_2, np.float64), size_2)
    done = _both_ways(nodes, reduced, rows, columns, nodes("Sub", pillow_2, target_2))
    if geometry.resize == "pad":
        done = _filled(nodes, done, target_2, margin_2, geometry.size)
    return nodes.cast(done, np.uint8)


def _box(nodes: Nodes, size_2: str, geometry: Geometry) -> tuple[str, str, str]:
    """Start and extent of the part of the image in use, in pixels, and the size that it is brought to."""
    target_2: Given = np.full(2, float(geometry.size))
    extent_2, start_2 = size_2, nodes("Mul", size_2, np.float64(0))
    if geometry.resize == "crop":
        side = nodes("ReduceMin", size_2, keepdims=1)
        extent_2 = nodes("Mul", side, np.ones(2))
        start_2 = nodes("Div", nodes("Sub", size_2, extent_2), np.float64(2))
    elif geometry.resize == "pad":
        scale = nodes("Div", np.float64(geometry.size), nodes("ReduceMax", size_2, keepdims=1))
        target_2 = nodes("Max", nodes("Round", nodes("Mul", size_2, scale)), np.float64(1))
    return start_2, extent_2, nodes("Identity", target_2)


def _box_averages(nodes: Nodes, planes: str, size_2: str, factor_2: str, channels: int) -> str:
    """Means over boxes of ``factor_2`` pixels, fp32 of whole grey levels; boxes at the end may hold fewer pixels.

    A mean of n pixels is the sum plus the whole half of n, times 2**24 / n rounded down, without the last 24 bits
    (``Reduce.c``). That is a division rounded down, but for whole quotients by an n that is no power of two, which come
    out one lower; half a grey level is taken from such sums.
    """
    boxes_2 = nodes("Ceil", nodes("Div", size_2, factor_2))
    missing_2 = nodes("Sub", nodes("Mul", boxes_2, factor_2), size_2)
    ends = nodes("Concat", np.zeros(6), missing_2, axis=0)
    # ONNX wants all starts, then all ends; only the last two of the eight are not 0.
    whole = nodes.cast(nodes("Pad", planes, nodes.cast(ends, np.int64), np.uint8(0)), np.float32)
    (factor_y, boxes_y), (factor_x, boxes_x) = (
        [nodes("Slice", nodes.cast(item, np.int64), *_only(axis)) for item in (factor_2, boxes_2)]
        for axis in (_ROWS, _COLUMNS)
    )
    minus_one, planes_1 = np.array([-1]), np.array([channels])
    along = nodes("Reshape", whole, nodes("Concat", minus_one, factor_x, axis=0))
    along = nodes("ReduceSum", along, np.array([1]), keepdims=0)
    down = nodes("Reshape", along, nodes("Concat", minus_one, factor_y, boxes_x, axis=0))
    down = nodes("ReduceSum", down, np.array([1]), keepdims=0)
    sums = nodes("Reshape", down, nodes("Concat", minus_one, planes_1, boxes_y, boxes_x, axis=0))

    counts, are_powers = [], []
    for axis, boxes in ((_ROWS, boxes_y), (_COLUMNS, boxes_x)):
        factor, length = (nodes("Slice", item, *_only(axis)) for item in (factor_2, size_2))
        places = nodes.cast(nodes("Range", np.int64(0), nodes("Squeeze", boxes), np.int64(1)), np.float64)
        count = nodes("Min", factor, nodes("Sub", length, nodes("Mul", places, factor)))
        rest = nodes("Mod", np.int64(2**24), nodes.cast(count, np.int64))
        shape = np.array([-1, 1] if axis == _ROWS else [1, -1])
        counts.append(nodes("Reshape", nodes.cast(count, np.float32), shape))
        is_power = nodes.cast(nodes("Equal", rest, np.int64(0)), np.float32)
        are_powers.append(nodes("Reshape", is_power, shape))
    count, is_power = nodes("Mul", *counts), nodes("Mul", *are_powers)
    half = nodes("Floor", nodes("Mul", count, np.float32(0.5)))
    lower = nodes("Mul", nodes("Sub", np.float32(1), is_power), np.float32(0.5))
    return nodes("Floor", nodes("Div", nodes("Add", sums, nodes("Sub", half, lower)), count))


def _weights(
    nodes: Nodes, axis: int, size: int, first_2: str, last_2: str, target_2: str, length_2: str, margin_2: str
) -> str:
    """How much each pixel along an axis counts for each pixel of the result.

    The kernel is the cubic of R. G. Keys ("Cubic convolution interpolation for digital image processing", IEEE ASSP 29,
    1981) with a = -0.5, stretched where the image shrinks. In powers of what t lacks to 2 and to 1 it is
    u*u*(u - 1)/2 + v*v*(1 - 2*v), which needs no choice between pieces. Distances are taken from the whole part of the
    centre, so that fp32 loses nothing of their fractions.

    Args:
        nodes: Where the operators go.
        axis: Of the image: rows or columns.
        size: Side of the result.
        first_2: Where the part in use begins.
        last_2: Where it ends.
        target_2: Pixels that it becomes.
        length_2: Pixels that there are.
        margin_2: Pixels of the result before the first of them; they repeat it, as those behind the last do.

    Returns:
        fp32, (S, length) for the rows and (length, S) for the columns, the sums over ``length`` 1.
    """
    first, last, target, margin, length = (
        nodes("Slice", item, *_only(axis)) for item in (first_2, last_2, target_2, margin_2, length_2)
    )
    step = nodes("Div", nodes.cast(nodes("Sub", last, first), np.float64), target)
    place = nodes("Sub", np.arange(size, dtype=np.float64), margin)
    place = nodes("Max", nodes("Min", place, nodes("Sub", target, np.float64(1))), np.float64(0))
    centre = nodes("Add", nodes.cast(first, np.float64), nodes("Mul", nodes("Add", place, np.float64(0.5)), step))
    whole = nodes("Floor", centre)
    fraction = nodes.cast(nodes("Sub", nodes("Sub", centre, whole), np.float64(0.5)), np.float32)
    stretch = nodes.cast(nodes("Div", np.float64(1), nodes("Max", step, np.float64(1))), np.float32)

    of_result, of_image = (np.array(shape) for shape in (([-1, 1], [1, -1]) if axis == _ROWS else ([1, -1], [-1, 1])))
    pixels = nodes.cast(nodes("Range", np.int64(0), nodes("Squeeze", length), np.int64(1)), np.float32)
    apart = nodes(
        "Sub",
        nodes("Sub", nodes("Reshape", pixels, of_image), nodes("Reshape", nodes.cast(whole, np.float32), of_result)),
        nodes("Reshape", fraction, of_result),
    )
    u = nodes("Relu", nodes("Sub", np.float32(2), nodes("Abs", nodes("Mul", apart, stretch))))
    v = nodes("Relu", nodes("Sub", u, np.float32(1)))
    outer = nodes("Mul", nodes("Mul", u, u), nodes("Mul", nodes("Sub", u, np.float32(1)), np.float32(0.5)))
    inner = nodes("Mul", nodes("Mul", v, v), nodes("Sub", np.float32(1), nodes("Mul", v, np.float32(2))))
    weight = nodes("Add", outer, inner)
    return nodes("Div", weight, nodes("ReduceSum", weight, np.array([1 - axis]), keepdims=1))


def _both_ways(nodes: Nodes, planes: str, rows: str, columns: str, shrunk_2: str) -> str:
    """The sums along both axes, in Pillow's order.

    Before version 13 rows are always summed along first. Since then columns are where the height shrinks by more than
    twice as many pixels as the width (pull request 9549; the rule fits 1,100 random sizes and boxes).

    Args:
        nodes: Where the operators go.
        planes: fp32, (N, C, height, width).
        rows: Weights, (S, height).
        columns: Weights, (width, S).
        shrunk_2: By how many pixels the image that Pillow resizes is higher and wider than the result.
    """
    if int(PIL.__version__.split(".")[0]) < _TALL_FIRST:
        return _rounded(nodes, rows, _rounded(nodes, planes, columns))
    height, width = (nodes("Slice", shrunk_2, *_only(axis)) for axis in (_ROWS, _COLUMNS))
    least = nodes("Max", nodes("Mul", width, np.float64(2)), np.float64(0))
    is_tall = nodes("Squeeze", nodes("Greater", height, least))
    tall, wide = nodes.branch("tall"), nodes.branch("wide")
    results = (
        _rounded(tall, _rounded(tall, rows, planes), columns),
        _rounded(wide, rows, _rounded(wide, planes, columns)),
    )
    return nodes.choose(is_tall, tall, wide, results)


def _rounded(nodes: Nodes, first: str, second: str) -> str:
    """A product in whole grey levels."""
    levels = nodes("Floor", nodes("Add", nodes("MatMul", first, second), np.float32(0.5)))
    return nodes("Clip", levels, np.float32(0), np.float32(255))


def _filled(nodes: Nodes, planes: str, target_2: str, margin_2: str, size: int) -> str:
    """The planes (N, C, S, S) with everything outside the image in the mean colour of the two edges beside it.

    Outside it they repeat its edges, so the edges are the first and the last line.
    """
    places = np.arange(size, dtype=np.float64)
    inside, fills = [], []
    for axis in (_ROWS, _COLUMNS):
        target, margin = (nodes("Slice", item, *_only(axis)) for item in (target_2, margin_2))
        place = nodes("Sub", places, margin)
        is_inside = nodes("And", nodes("GreaterOrEqual", place, np.float64(0)), nodes("Less", place, target))
        inside.append(nodes("Reshape", is_inside, np.array([-1, 1] if axis == _ROWS else [1, -1])))
        edges = nodes("Gather", planes, np.array([0, size - 1]), axis=2 + axis)
        fills.append(nodes("Round", nodes("ReduceMean", edges, np.array([2, 3]), keepdims=1)))
    is_low = nodes("Less", nodes("Slice", target_2, *_only(_ROWS)), np.float64(size))
    fill = nodes("Where", is_low, *fills)
    return nodes("Where", nodes("And", *inside), planes, fill)


def _only(axis: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Start and end of one figure of two, for ``Slice``."""
    return np.array([axis]), np.array([axis + 1])
