"""Drawing a map of images: a mark for each, a ring about mistakes, small pictures that show on hover and on focus.

No script: a transparent circle lies over each mark that has a picture, in a second layer, and the style sheet shows
the card that belongs to it. So a card is never hidden by the marks that are drawn after it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

from markupsafe import Markup

from tintype.report.svg import element, join

WIDTH = 900.0
_LEAST_HEIGHT, _MOST_HEIGHT = 420.0, 900.0
_MARGIN = 34.0
_SERIES = 8
_MOST_NAMES = 40
_CARD_WIDTH, _PICTURE, _LINE = 168.0, 96.0, 15.0
_MOST_CHARACTERS = 25
_PIXELATED = 40


Role = Literal["judged", "context", "new"]


@dataclass(frozen=True)
class Point:
    """An image on a map.

    Attributes:
        x: In units of the map.
        y: Likewise, upwards.
        role: ``judged``: by which the network was judged; ``context``: the run's other images; ``new``.
        label: Its class; empty where unknown.
        predicted: The answer.
        path: Identifier.
        far: True for a new image that is unlike all others.
        picture: ``media_type``, ``data``, ``width``, ``height``; None without one.
    """

    x: float
    y: float
    role: Role
    label: str
    predicted: str
    path: str
    far: bool = False
    picture: Mapping[str, Any] | None = None

    @property
    def is_mistake(self) -> bool:
        """True where the answer is known to be wrong."""
        return bool(self.label) and self.label != self.predicted

    @property
    def words(self) -> str:
        """What it is and what the network answered."""
        if not self.label:
            return f"answer {self.predicted}"
        return f"is {self.label}, taken for {self.predicted}" if self.is_mistake else f"is {self.label}, rightly told"


def class_map(points: Sequence[Point], classes: Sequence[str], spoken: str) -> Markup:
    """The map, coloured by class, with pictures.

    Args:
        points: At least one.
        classes: In the order of their colours.
        spoken: What a screen reader says of the whole.
    """
    places, height = _placed(points)
    numbers = {name: number for number, name in enumerate(classes)}
    radius = _radius(len(points))
    order = sorted(range(len(points)), key=lambda i: _layer(points[i]))
    marks = [_mark(points[i], places[i], numbers, radius) for i in order]
    names = [_name(name, points, places) for name in classes] if len(classes) <= _MOST_NAMES else []
    spots = [_spot(points[i], places[i], radius, height) for i in order if points[i].picture is not None]
    box = f"0 0 {WIDTH:.0f} {height:.0f}"
    return element(
        "svg", join(marks), join(name for name in names if name), join(spots),
        viewBox=box, class_="map", role="group", aria_label=spoken,
    )  # fmt: skip


def mistake_map(points: Sequence[Point], spoken: str) -> Markup:
    """The same places, right answers pale and mistakes strong; the run's other images left out.

    Args:
        points: As for :func:`class_map`.
        spoken: What a screen reader says.
    """
    places, height = _placed(points)
    radius = _radius(len(points)) * 1.5
    order = sorted((i for i in range(len(points)) if points[i].role != "context"), key=lambda i: points[i].is_mistake)
    marks = [
        element(
            "circle", cx=places[i][0], cy=places[i][1], r=radius * (1.3 if points[i].is_mistake else 1),
            class_="wrong-mark" if points[i].is_mistake else "plain-mark",
        )
        for i in order
    ]  # fmt: skip
    box = f"0 0 {WIDTH:.0f} {height:.0f}"
    return element("svg", join(marks), viewBox=box, class_="map", role="img", aria_label=spoken)


def key_mark(number: int) -> Markup:
    """A class's mark for the legend."""
    return element("svg", _shape(number, (8, 8), 5, "dot-mark"), viewBox="0 0 16 16", class_="key-mark", **_HIDDEN)


def key_ring() -> Markup:
    """The mark of a mistake for the legend."""
    ring = element("circle", cx=8, cy=8, r=6, class_="ring")
    return element("svg", ring, viewBox="0 0 16 16", class_="key-mark", **_HIDDEN)


def key_new() -> Markup:
    """The mark of a new image for the legend."""
    return element("svg", _diamond((8, 8), 6, "new"), viewBox="0 0 16 16", class_="key-mark", **_HIDDEN)


def key_seen() -> Markup:
    """The mark of one of the run's other images for the legend."""
    dot = element("circle", cx=8, cy=8, r=4, class_="dot-mark seen")
    return element("svg", dot, viewBox="0 0 16 16", class_="key-mark", **_HIDDEN)


_HIDDEN: dict[str, str] = {"aria_hidden": "true"}


def _placed(points: Sequence[Point]) -> tuple[list[tuple[float, float]], float]:
    """Coordinates of the points, a unit the same along both axes, and the drawing's height."""
    low_x, high_x = min(point.x for point in points), max(point.x for point in points)
    low_y, high_y = min(point.y for point in points), max(point.y for point in points)
    span_x, span_y = max(high_x - low_x, 1e-9), max(high_y - low_y, 1e-9)
    inner = WIDTH - 2 * _MARGIN
    height = min(max(inner * span_y / span_x + 2 * _MARGIN, _LEAST_HEIGHT), _MOST_HEIGHT)
    scale = min(inner / span_x, (height - 2 * _MARGIN) / span_y)
    middle_x, middle_y = (low_x + high_x) / 2, (low_y + high_y) / 2
    places = [(WIDTH / 2 + (p.x - middle_x) * scale, height / 2 - (p.y - middle_y) * scale) for p in points]
    return places, height


def _radius(count: int) -> float:
    return 6.0 if count < 150 else 4.6 if count < 500 else 3.6 if count < 1500 else 2.8


def _layer(point: Point) -> int:
    """What is drawn over what: the run's other images first, then right answers, mistakes, new images."""
    if point.role == "context":
        return 0
    if point.role == "new":
        return 3
    return 2 if point.is_mistake else 1


def _mark(point: Point, place: tuple[float, float], numbers: Mapping[str, int], radius: float) -> Markup:
    number = numbers.get(point.label)
    title = () if point.picture is not None else (element("title", f"{point.words}: {point.path}"),)
    if point.role == "new":
        drawn = _diamond(place, radius * 1.9, f"new {_series(number)}".strip(), *title)
        parts = [element("circle", cx=place[0], cy=place[1], r=radius * 3, class_="halo")] if point.far else []
        parts.append(drawn)
        if point.is_mistake:
            parts.append(_diamond(place, radius * 3, f"ring {_series(numbers.get(point.predicted))}"))
        return join(parts)
    style = "dot-mark seen" if point.role == "context" else "dot-mark"
    drawn = _shape(number or 0, place, radius, style, *title)
    if not point.is_mistake or point.role == "context":
        return drawn
    ring = element(
        "circle", cx=place[0], cy=place[1], r=radius + 3, class_=f"ring {_series(numbers.get(point.predicted))}"
    )
    return join([drawn, ring])


def _shape(number: int, place: tuple[float, float], radius: float, style: str, *children: Markup) -> Markup:
    """Eight colours, then the same as squares, then as triangles."""
    x, y = place
    style = f"{style} {_series(number)}"
    form = number // _SERIES % 3
    if form == 0:
        return element("circle", *children, cx=x, cy=y, r=radius, class_=style)
    if form == 1:
        side = 1.8 * radius
        return element("rect", *children, x=x - side / 2, y=y - side / 2, width=side, height=side, class_=style)
    corners = [(x + 1.35 * radius * math.sin(a), y - 1.35 * radius * math.cos(a)) for a in (0, 2.0944, 4.18879)]
    return element("path", *children, d=_closed(corners), class_=style)


def _diamond(place: tuple[float, float], reach: float, style: str, *children: Markup) -> Markup:
    x, y = place
    corners = [(x, y - reach), (x + reach, y), (x, y + reach), (x - reach, y)]
    return element("path", *children, d=_closed(corners), class_=style)


def _closed(corners: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in corners) + "Z"


def _series(number: int | None) -> str:
    return "" if number is None else f"s{number % _SERIES + 1}"


def _name(name: str, points: Sequence[Point], places: Sequence[tuple[float, float]]) -> Markup | None:
    """The class's name in the middle of its images."""
    own = [place for point, place in zip(points, places, strict=True) if point.label == name and point.role != "new"]
    if not own:
        return None
    x, y = median(place[0] for place in own), median(place[1] for place in own)
    return element("text", _shortened(name), x=x, y=y + 5, class_="class-name")


def _spot(point: Point, place: tuple[float, float], radius: float, height: float) -> Markup:
    """The transparent circle over a mark, and the card that shows while the pointer or the focus is on it."""
    assert point.picture is not None
    x, y = place
    lines = _lines(point)
    card_height = _PICTURE + 16 + _LINE * len(lines)
    left = min(max(x + 12, 2), WIDTH - _CARD_WIDTH - 2) if x < WIDTH / 2 else max(x - 12 - _CARD_WIDTH, 2)
    top = min(max(y - card_height / 2, 2), height - card_height - 2)
    picture = point.picture
    image = element(
        "image", href=f"data:{picture['media_type']};base64,{picture['data']}",
        x=left + (_CARD_WIDTH - _PICTURE) / 2, y=top + 8, width=_PICTURE, height=_PICTURE,
        class_="hard" if max(picture["width"], picture["height"]) <= _PIXELATED else None,
    )  # fmt: skip
    words = [
        element(
            "text", line, x=left + _CARD_WIDTH / 2, y=top + _PICTURE + 22 + _LINE * number, text_anchor="middle",
            class_="muted" if line == lines[-1] else None,
        )
        for number, line in enumerate(lines)
    ]  # fmt: skip
    frame = element("rect", x=left, y=top, width=_CARD_WIDTH, height=card_height, rx=4)
    hit = element("circle", cx=x, cy=y, r=max(radius + 2, 6), class_="hit")
    card = element("g", frame, image, join(words), class_="card")
    return element("g", hit, card, class_="spot", tabindex="0", role="img", aria_label=f"{point.words}: {point.path}")


def _lines(point: Point) -> list[str]:
    if not point.label:
        first = [f"answer: {point.predicted}"]
    elif point.is_mistake:
        first = [f"is {point.label}", f"taken for {point.predicted}"]
    else:
        first = [point.label]
    if point.role == "new":
        first.append("new, unlike all others" if point.far else "new")
    name = point.path.rsplit("/", 1)[-1]
    return [*(_shortened(line) for line in first), _shortened(name)]


def _shortened(words: str) -> str:
    return words if len(words) <= _MOST_CHARACTERS else f"{words[: _MOST_CHARACTERS - 1]}…"
