"""The picture of a network: which boxes it has, and how large they are."""

from __future__ import annotations

import re
from itertools import pairwise

from made_up_search import backbone_layers, residual_layers

from tintype.records import LayerRow, ModelSummary
from tintype.report.tune_network import MOST_BLOCKS, blocks_of, network_picture


def test_a_box_is_a_layer_that_computes_with_what_follows_it() -> None:
    blocks = blocks_of(residual_layers().layers)
    assert [block.label for block in blocks] == [
        "conv 3", "conv 3", "pool 2", "conv 3 /2", "conv 3", "conv 3", "conv 3", "mean", "dense"
    ]  # fmt: skip
    assert blocks[0].parts == ("conv1: conv 3x3, 480 parameters", "bn1: batch norm, 192 parameters")
    assert [block.side for block in blocks] == [28, 28, 14, 7, 7, 7, 7, 0, 0]


def test_a_shortcut_runs_beside_the_others_and_every_parameter_is_counted() -> None:
    summary = residual_layers()
    blocks = blocks_of(summary.layers)
    assert any("shortcut.conv" in part for part in blocks[4].parts)
    assert sum(block.parameters for block in blocks) == summary.total_parameters


def test_a_deep_network_is_drawn_by_the_size_of_its_maps_and_says_what_is_frozen() -> None:
    summary = backbone_layers()
    blocks = blocks_of(summary.layers)
    assert len(blocks) <= MOST_BLOCKS
    assert [block.side for block in blocks] == [112, 56, 28, 14, 7, 0, 0, 0]
    assert [block.label for block in blocks[:2]] == ["10 convs", "9 convs"]
    assert [block.frozen for block in blocks] == [True] * 5 + [False] * 3
    assert sum(block.parameters for block in blocks) == summary.total_parameters
    picture = network_picture(summary)
    assert picture is not None
    assert ("frozen", "frozen") in picture.legend


def test_freezing_parts_layers_of_one_size() -> None:
    rows = tuple(LayerRow(f"conv{i}", "conv 3x3", (8, 14, 14), 100, 0 if i < 12 else 100) for i in range(24))
    assert [(block.label, block.frozen) for block in blocks_of(rows)] == [("12 convs", True), ("12 convs", False)]


def test_boxes_shrink_with_their_maps_and_stay_inside_the_drawing() -> None:
    picture = network_picture(residual_layers(), (1, 28, 28))
    assert picture is not None
    faces = [
        tuple(float(value) for value in found)
        for found in re.findall(
            r'<rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)" class="face"', picture.svg
        )
    ]
    assert len(faces) == 10
    heights = [height for *_, height in faces]
    assert heights[0] == heights[1] > heights[3] > heights[4]
    found = re.search(r'viewBox="0 0 (\d+) (\d+)"', picture.svg)
    assert found
    assert all(x >= 0 and x + width <= float(found[1]) and y >= 0 for x, y, width, _ in faces)
    assert all(one[0] + one[2] <= other[0] for one, other in pairwise(faces))
    assert picture.svg.count(">output<") == 1


def test_a_table_of_nothing_has_no_picture() -> None:
    assert network_picture(ModelSummary((), 0, 0, 0)) is None
    assert network_picture(ModelSummary((LayerRow("unused", "dense", (), 10, 10),), 10, 10, 0)) is None


def test_vectors_of_tokens_are_drawn() -> None:
    rows = (
        LayerRow("patch", "conv 16x16 stride 16", (192, 14, 14), 100, 100),
        LayerRow("block", "dense", (196, 192), 9, 9),
    )
    picture = network_picture(ModelSummary(rows, 109, 109, 0))
    assert picture is not None
    assert "conv 16 /16" in picture.svg
