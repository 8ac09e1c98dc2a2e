"""A map of images as a page or a run's report shows it, from its folder alone; no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from tintype.errors import RunError
from tintype.records import Interval
from tintype.report import text
from tintype.report.embedding_map import (
    Point,
    Role,
    class_map,
    key_mark,
    key_new,
    key_ring,
    key_seen,
    mistake_map,
)
from tintype.report.figures import strip
from tintype.report.reading import of_this_version
from tintype.report.results import Cell, StripRow, scale_floor, share_cell
from tintype.rundir import FORMAT_VERSION, RunDir

EMBEDDING_FILE = "embedding.json"
THUMBNAILS_FILE = "thumbnails.json"
PAGE_NAME = "embedding.html"
FOLDER = "embeddings"

_MOST_IN_MATRIX = 12
_FIRST_PAIRS = 15
_MOST_NAMED_CLASSES = 24
_MOST_FAR = 30
_MEDIA_TYPES = ("image/png", "image/jpeg")
_FEATURES = "features"


@dataclass(frozen=True)
class PairRow:
    """Two classes and how well a linear classifier tells them apart."""

    one: str
    other: str
    accuracy: Cell
    largest: str


@dataclass(frozen=True)
class MatrixCell:
    """A pair of classes in the small matrix: what is shown, its shade, its interval."""

    shown: str
    style: str
    hint: str


@dataclass(frozen=True)
class SeparabilityView:
    """The score that stands beside the picture.

    Attributes:
        sentence: The score, its interval, n and what shuffled labels give.
        strips: The score, shuffled labels, the largest class.
        closest: A sentence on the two classes that are told apart worst; empty for two classes.
        pairs: Rows, the closest first.
        pairs_in_all: How many pairs of classes there are.
        classes: Names of the matrix's rows; empty where there are too few or too many.
        matrix: Its cells.
        note: How it was measured, and on what.
    """

    sentence: str
    strips: tuple[StripRow, ...]
    closest: str
    pairs: tuple[PairRow, ...]
    pairs_in_all: int
    classes: tuple[str, ...]
    matrix: tuple[tuple[MatrixCell, ...], ...]
    note: str


@dataclass(frozen=True)
class EmbeddingView:
    """What the page shows, and in short a run's report.

    Attributes:
        run: Name of the run's directory.
        title: Which images, by what.
        map: Coloured by class, with pictures.
        mistakes: The same places by right and wrong; None where no answer was wrong.
        keys: Mark and words of each class.
        marks: Mark and words of everything else.
        trust: Value and interval in words.
        trust_note: What it means.
        separability: None where there are too few images.
        notes: How the map was made.
        new: A sentence on the new images; empty without any.
        far: Paths of new images that are unlike all others.
        far_in_all: How many these are.
        facts: Words and values.
        pictures: How many images have a small picture.
        page: The page's address from the run directory.
    """

    run: str
    title: str
    map: Markup
    mistakes: Markup | None
    keys: tuple[tuple[Markup, str], ...]
    marks: tuple[tuple[Markup, str], ...]
    trust: str
    trust_note: str
    separability: SeparabilityView | None
    notes: tuple[str, ...]
    new: str
    far: tuple[str, ...]
    far_in_all: int
    facts: tuple[tuple[str, str], ...]
    pictures: int
    page: str


def embedding_view(run_dir: RunDir, layer: str = _FEATURES) -> EmbeddingView | None:
    """The map of a run for its own report, without pictures; None where none was made.

    Raises:
        RunError: Its file is damaged or from another version.
    """
    folder = RunDir(run_dir / FOLDER / layer)
    if not (folder / EMBEDDING_FILE).is_file():
        return None
    return _view(_read(folder), {}, f"{FOLDER}/{layer}/{PAGE_NAME}")


def summary_lines(content: Mapping[str, Any]) -> list[str]:
    """What the command line says of a map."""
    trust = Interval(**content["trustworthiness"])
    lines = [f"{_title(content)}; trustworthiness {text.number(trust.value)} ({_range(trust)})"]
    view = _separability(content)
    if view is not None:
        lines.append(view.sentence)
        if view.closest:
            lines.append(view.closest)
    else:
        lines.append("too few images of each class to measure how well they can be told apart")
    new = _new_sentence(content)
    return [line.replace(text.NBSP, " ") for line in [*lines, *([new] if new else [])]]


def page_view(folder: RunDir) -> EmbeddingView:
    """The map with its pictures, for a page of its own.

    Raises:
        RunError: A file is missing, damaged or from another version.
    """
    return _view(_read(folder), text.printable(folder.read_json(THUMBNAILS_FILE)), "")


def _read(folder: RunDir) -> dict[str, Any]:
    content: dict[str, Any] = text.printable(folder.read_json(EMBEDDING_FILE))
    if content.get("format") != FORMAT_VERSION:
        raise RunError(
            f"{folder / EMBEDDING_FILE} has format {content.get('format')}; this tintype reads {FORMAT_VERSION}."
        )
    return content


@of_this_version(EMBEDDING_FILE)
def _view(content: Mapping[str, Any], pictures: Mapping[str, Any], page: str) -> EmbeddingView:
    shown = {number: item for number, item in pictures.items() if item["media_type"] in _MEDIA_TYPES}
    points = [_point(item, content["split"], shown.get(str(number))) for number, item in enumerate(content["points"])]
    classes = content["classes"]
    title = _title(content)
    judged = [point for point in points if point.role == "judged"]
    wrong = sum(point.is_mistake for point in points if point.role != "context")
    spoken = (
        f"Map of {text.plural(len(points), 'image')} of {text.plural(len(classes), 'class', 'classes')}; "
        f"{text.plural(sum(point.is_mistake for point in judged), 'mistake')}."
    )
    trust = Interval(**content["trustworthiness"])
    far = [point.path for point in points if point.far]
    return EmbeddingView(
        run=str(content["run"]).rstrip("/").rsplit("/", 1)[-1],
        title=title,
        map=class_map(points, classes, spoken),
        mistakes=mistake_map(points, "The same map: right answers pale, mistakes strong.") if wrong else None,
        keys=tuple((key_mark(number), name) for number, name in enumerate(classes[:_MOST_NAMED_CLASSES])),
        marks=_marks(content, wrong),
        trust=f"{text.number(trust.value)} ({_range(trust)}, n{text.NBSP}={text.NBSP}{text.count(trust.n)})",
        trust_note=(
            f"Trustworthiness: how far the {content['neighbours']} nearest images of each image on the map are its "
            "nearest in the features too; 1 where all are, about 0.5 for a map drawn at random. Distances between "
            "clusters and the sizes of clusters mean nothing in t-SNE."
        ),
        separability=_separability(content),
        notes=_notes(content),
        new=_new_sentence(content),
        far=tuple(far[:_MOST_FAR]),
        far_in_all=len(far),
        facts=_facts(content),
        pictures=len(shown),
        page=page,
    )


def _point(item: Mapping[str, Any], split: str, picture: Mapping[str, Any] | None) -> Point:
    role: Role = "new" if item["role"] == "new" else "judged" if item["role"] == split else "context"
    return Point(
        float(item["x"]), float(item["y"]), role, item["label"], item["predicted"], item["path"],
        bool(item.get("far", False)), picture,
    )  # fmt: skip


def _title(content: Mapping[str, Any]) -> str:
    images = f"{text.count(content['judged'])} {text.SPLIT_WORDS[content['split']]} images"
    return f"{images} by {_layer_words(content)}"


def _layer_words(content: Mapping[str, Any]) -> str:
    return "what the output layer sees" if content["layer"] == _FEATURES else f"the layer {content['layer']}"


def _marks(content: Mapping[str, Any], wrong: int) -> tuple[tuple[Markup, str], ...]:
    marks = []
    if wrong:
        marks.append((key_ring(), "a mistake; the ring has the colour of the class it was taken for"))
    if content["context"]:
        marks.append((key_seen(), f"a {' or '.join(text.SPLIT_WORDS[name] for name in content['context'])} image"))
    if content["new"]:
        words = "a new image; empty where its class is unknown, circled where it is unlike all others"
        marks.append((key_new(), words))
    return tuple(marks)


def _separability(content: Mapping[str, Any]) -> SeparabilityView | None:
    found = content["separability"]
    if found is None:
        return None
    score, shuffled = Interval(**found["accuracy"]), Interval(**found["shuffled"])
    pairs = found["pairs"]
    largest = Interval(found["largest"], found["largest"], found["largest"], score.n)
    floor = scale_floor([pair["accuracy"]["low"] for pair in pairs])
    names = _matrix_names(pairs)
    sentence = (
        f"A linear classifier on all {text.count(content['features'])} features tells "
        f"{text.percent(score.value, score.n)} of {text.plural(score.n, 'image')} right that it was not fitted on "
        f"(95{text.NBSP}% interval {text.interval_range('accuracy', score)}); with shuffled labels "
        f"{text.percent(shuffled.value, score.n)}."
    )
    strips = (
        _strip("Linear classifier, held-out images", score, ""),
        _strip(f"The same with shuffled labels, {found['shuffles']} times", shuffled, "second"),
        _strip("Always naming the largest class", largest, "plain"),
    )
    left_out = found["left_out"]
    note = (
        f"Logistic regression on standardised features, {found['folds']} stratified folds, {found['repeats']} times, "
        f"penalty fixed at {found['penalty']:.3g}, on the {_listed(found['splits'])} images. Nothing was chosen by "
        "these images."
    )
    if left_out:
        note += f" Left out for want of images: {', '.join(left_out)}."
    return SeparabilityView(
        sentence=sentence,
        strips=strips,
        closest=_closest(pairs[0]) if len(pairs) > 1 else "",
        pairs=tuple(_pair_row(pair, floor) for pair in pairs[:_FIRST_PAIRS]) if len(pairs) > 1 else (),
        pairs_in_all=found["pairs_in_all"],
        classes=names,
        matrix=_matrix(pairs, names),
        note=note,
    )


def _closest(pair: Mapping[str, Any]) -> str:
    score = Interval(**pair["accuracy"])
    start, n = f"“{pair['one']}” and “{pair['other']}”", text.count(score.n)
    value = f"{text.percent(score.value, n=score.n)} ({text.interval_range('accuracy', score)}, n = {n})"
    if score.low <= pair["largest"]:
        chance = text.percent(pair["largest"], score.n)
        return f"{start} cannot be told apart by these features: {value}, where naming one always gives {chance}."
    return f"Closest are {start}: {value} of their images are told right."


def _pair_row(pair: Mapping[str, Any], floor: float) -> PairRow:
    score = Interval(**pair["accuracy"])
    return PairRow(pair["one"], pair["other"], share_cell(score, floor), text.percent(pair["largest"], score.n))


def _matrix_names(pairs: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The classes of the matrix in the order of the data; none for two classes or for very many."""
    names = dict.fromkeys(name for pair in pairs for name in (pair["one"], pair["other"]))
    complete = len(pairs) == len(names) * (len(names) - 1) // 2
    if not complete or not 3 <= len(names) <= _MOST_IN_MATRIX:
        return ()
    first = {name: sum(pair["other"] == name for pair in pairs) for name in names}
    return tuple(sorted(names, key=lambda name: first[name]))


def _matrix(pairs: Sequence[Mapping[str, Any]], names: Sequence[str]) -> tuple[tuple[MatrixCell, ...], ...]:
    """Accuracy of each pair, shaded by what is missing to 100 %."""
    found = {frozenset((pair["one"], pair["other"])): Interval(**pair["accuracy"]) for pair in pairs}
    rows = []
    for one in names:
        cells = []
        for other in names:
            score = found.get(frozenset((one, other))) if one != other else None
            if score is None:
                cells.append(MatrixCell("", "none", ""))
                continue
            shade = min(10, max(0, round((1 - score.value) * 20)))
            hint = f"{one} and {other}: {text.interval_range('accuracy', score)}, n = {text.count(score.n)}"
            style = f"wrong h{shade}" if shade else ""
            cells.append(MatrixCell(text.percent(score.value, unit=False), style, hint))
        rows.append(tuple(cells))
    return tuple(rows)


def _strip(label: str, interval: Interval, style: str) -> StripRow:
    drawing = strip((interval.value, interval.low, interval.high), "", style=style)
    words = "" if style == "plain" else text.interval_range("accuracy", interval)
    return StripRow(label, drawing, text.percent(interval.value, interval.n), words, style)


def _notes(content: Mapping[str, Any]) -> tuple[str, ...]:
    notes = []
    if content["judged"] < content["judged_in_all"]:
        notes.append(
            f"{text.count(content['judged'])} of {text.count(content['judged_in_all'])} "
            f"{text.SPLIT_WORDS[content['split']]} images are shown, evenly taken."
        )
    if content["context"]:
        behind = " and ".join(f"{text.count(n)} {text.SPLIT_WORDS[name]}" for name, n in content["context"].items())
        fitted = (
            "The network was fitted on the training images, so they lie apart more clearly than images it has not seen."
            if content["learnt"]
            else "This layer learnt nothing from the training images, so they count like any other."
        )
        notes.append(
            f"{behind} images stand behind the few {text.SPLIT_WORDS[content['split']]} images, paler. {fitted}"
        )
    return tuple(notes)


def _new_sentence(content: Mapping[str, Any]) -> str:
    if content["new"] is None:
        return ""
    far = sum(bool(item.get("far")) for item in content["points"])
    count = content["new"]["images"]
    start = (
        f"{text.plural(count, 'new image')} from {content['new']['source']} {'was' if count == 1 else 'were'} placed"
    )
    if not far:
        return f"{start} into the map; each is as near to an image on it as the map's own images are."
    return (
        f"{start} into the map; {text.count(far)} of them {'is' if far == 1 else 'are'} farther from every image on it "
        "than 99 in 100 of its own images are from their nearest. Where such an image stands says little."
    )


def _facts(content: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    distance = "cosine" if content["metric"] == "cosine" else "Euclidean, of standardised features"
    return (
        ("Layer", content["layer"]),
        ("Features", text.count(content["features"])),
        ("Distance", distance),
        ("Principal components", text.count(content["components"])),
        ("Perplexity", f"{content['perplexity']:.3g}"),
        ("Seed", str(content["seed"])),
    )


def _listed(splits: Sequence[str]) -> str:
    """``test``, ``validation and test``, ``training, validation and test``."""
    words = [text.SPLIT_WORDS[name] for name in splits]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _range(interval: Interval) -> str:
    return f"{text.number(interval.low)} to {text.number(interval.high)}"
