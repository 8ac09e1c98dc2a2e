"""A map of images by what a layer of a finished network says of them, with the evidence that a picture cannot give."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tintype.config import RunConfig, load_config
from tintype.data.cache import ImageCache
from tintype.data.index import counted
from tintype.data.reopen import decode_like, evenly, reopen_images, rows_of
from tintype.data.shift import opposite_polarity
from tintype.data.thumbnails import Thumbnail, make_thumbnail
from tintype.environment import describe_environment
from tintype.errors import ConfigError, DataError
from tintype.evaluation.calibration import calibrated
from tintype.evaluation.embed import LEAST_PERPLEXITY, Map, embed_features
from tintype.evaluation.neighbours import nearest
from tintype.records import SPLITS, Predictions, SplitName, to_plain
from tintype.report.embedding import EMBEDDING_FILE, PAGE_NAME, THUMBNAILS_FILE
from tintype.report.embedding_page import write_embedding_page
from tintype.rundir import FORMAT_VERSION, RunDir
from tintype.runtime import Runtime, start_runtime
from tintype.serving.model import Model, load_model
from tintype.training.layer_features import FEATURES, Inputs, Reading, has_learnt, open_inputs, read_layer
from tintype.training.separability import Separability, separability
from tintype.watch import Watch

MOST_IMAGES = 3_000
"""Judged images on a map; more hide one another."""
FEW_IMAGES = 300
"""With fewer judged images, the run's other images stand behind them, since a few dozen points show little."""
MOST_CONTEXT = 1_000
MOST_NEW = 1_000
MOST_THUMBNAILS = 600
THUMBNAIL_SIDE = 56
FAR_QUANTILE = 0.99
"""A new image is far from all others if its nearest one is farther than that of so many of the map's images."""


@dataclass(frozen=True)
class Embedding:
    """A map that was made.

    Attributes:
        path: The folder with ``embedding.json`` and the page.
        content: ``embedding.json``.
    """

    path: Path
    content: dict[str, Any]

    @property
    def page(self) -> Path:
        """The page's path."""
        return self.path / PAGE_NAME


@dataclass(frozen=True)
class _Shown:
    """Images of the run on the map: those that it was judged by, and where these are few, others behind them.

    Attributes:
        split: Of the judged ones.
        judged: How many these are.
        judged_in_all: How many the run was judged by.
        rows: Positions in the run's index, shape (N,).
        roles: Split of each, length N.
        labels: Class ids, shape (N,).
        predicted: Likewise.
    """

    split: SplitName
    judged: int
    judged_in_all: int
    rows: NDArray[np.int64]
    roles: tuple[SplitName, ...]
    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]


@dataclass(frozen=True)
class _New:
    """Images from elsewhere.

    Attributes:
        cache: Decoded as the model's own were.
        rows: Positions in their index, shape (M,).
        inverted: Which are shown as negatives, shape (M,).
        reading: Their features and calibrated predictions.
    """

    cache: ImageCache
    rows: NDArray[np.int64]
    inverted: NDArray[np.bool_]
    reading: Reading


def embed_run(
    run: Path, source: str | None = None, *, layer: str = FEATURES, perplexity: float | None = None,
    output: Path | None = None, skip_bad: bool = False, device: str = "auto", watch: Watch = Watch(),
) -> Embedding:  # fmt: skip
    """Draw the images of a finished run in two dimensions, by the features of one of its network's layers.

    The test images stand on the map, in a run without a test set the validation images. Beside it stand how far the map
    can be trusted and how well a linear classifier tells the classes apart by all features.

    Args:
        run: The run directory.
        source: Other images, with labels or without, that are placed into the same map; None for none.
        layer: A name of ``tintype summary``, or ``features``: what the output layer sees.
        perplexity: About how many neighbours an image is to keep; None for 30. At most a third of the images.
        output: Where the files go; None for ``embeddings/LAYER`` inside the run directory.
        skip_bad: Leave unreadable images of ``source`` out instead of stopping.
        device: ``auto``, ``cpu`` or ``cuda``.
        watch: Progress and messages.

    Raises:
        RunError: The run is missing or unfinished.
        ConfigError: There is no such layer, or the perplexity is out of range.
        DataError: The run's images are gone or changed, there are too few, or ``source`` cannot be read.
    """
    if perplexity is not None and not perplexity >= LEAST_PERPLEXITY:
        raise ConfigError(f"perplexity must be at least {LEAST_PERPLEXITY:g}. Got {perplexity:g} instead.")
    run_dir = RunDir(run)
    run_dir.require_complete()
    model, config = load_model(run_dir), load_config(run_dir / "config.toml")
    runtime = replace(start_runtime(device, config.threads, config.seed), precision=_precision(config))
    model.network.to(runtime.device)
    cache = reopen_images(run_dir, config.data, watch.on_progress)
    shown = _shown(run_dir.read_predictions(), cache)
    inputs = open_inputs(model.network, config, cache, runtime, layer, watch.on_progress)
    features_NF = read_layer(inputs, shown.rows, runtime, shown.split, layer, on_progress=watch.on_progress).features
    new = None if source is None else _read_new(model, config, source, layer, skip_bad, runtime, watch)
    watch.on_message(f"{counted(len(features_NF), 'image')}, {features_NF.shape[1]:,} values each; t-SNE runs")
    drawn = embed_features(features_NF, config.seed, perplexity, runtime.threads)
    if perplexity is not None and drawn.perplexity < perplexity:
        used = f"perplexity {drawn.perplexity:.3g} instead of {perplexity:g}"
        watch.on_message(f"{used}: it can be at most a third of the images on the map")
    is_learnt = has_learnt(model.network, layer)
    content = {
        "format": FORMAT_VERSION,
        "run": str(run),
        "layer": layer,
        "features": features_NF.shape[1],
        "seed": config.seed,
        "classes": model.classes,
        "learnt": is_learnt,
        "separability": _separability(features_NF, shown, cache, is_learnt, config.seed, watch),
        "new": None if new is None else {"source": source, "images": len(new.rows)},
        **_about(shown, drawn),
        "points": [*_points(shown, cache, drawn), *([] if new is None else _new_points(new, features_NF, drawn))],
    }
    folder = RunDir(output if output is not None else run_dir.path / "embeddings" / _folder_name(layer))
    environment = describe_environment(runtime, _command(run, source, layer, perplexity))
    _write(folder, content, _thumbnails(content["points"], shown, cache, new), environment)
    return Embedding(folder.path, to_plain(content))


def _write(
    folder: RunDir, content: dict[str, Any], pictures: dict[str, Thumbnail], environment: dict[str, Any]
) -> None:
    """The files, and the page that is made from them."""
    folder.path.mkdir(parents=True, exist_ok=True)
    folder.write_json("environment.json", environment)
    folder.write_json(THUMBNAILS_FILE, pictures)
    folder.write_json(EMBEDDING_FILE, content)
    write_embedding_page(folder)


def _about(shown: _Shown, drawn: Map) -> dict[str, Any]:
    """How the map was drawn, and of which images."""
    return {
        "split": shown.split,
        "judged": shown.judged,
        "judged_in_all": shown.judged_in_all,
        "context": {name: shown.roles.count(name) for name in SPLITS if name in shown.roles and name != shown.split},
        "metric": drawn.space.metric,
        "components": drawn.space.basis.shape[1],
        "perplexity": drawn.perplexity,
        "trustworthiness": drawn.trustworthiness,
        "neighbours": drawn.neighbours,
    }


def _precision(config: RunConfig) -> Any:
    """The run's own, so that a layer says what it said there."""
    return "fp32" if config.precision == "auto" else config.precision


def _shown(predictions: dict[str, Predictions], cache: ImageCache) -> _Shown:
    """Which images of the run stand on the map."""
    split: SplitName = "test" if "test" in predictions else "validation"
    if split not in predictions:
        raise DataError("the run was judged on no test and no validation images, so there is nothing to draw.")
    judged = predictions[split]
    parts = [(split, judged, evenly(len(judged), MOST_IMAGES))]
    if len(judged) < FEW_IMAGES:
        rest: tuple[SplitName, ...] = ("validation", "train")
        for name in rest:
            if name in predictions and name != split:
                parts.append((name, predictions[name], evenly(len(predictions[name]), MOST_CONTEXT)))
    return _Shown(
        split=split,
        judged=len(parts[0][2]),
        judged_in_all=len(judged),
        rows=np.concatenate([rows_of(cache.index, [item.paths[n] for n in chosen]) for _, item, chosen in parts]),
        roles=tuple(name for name, _, chosen in parts for _ in chosen),
        labels=np.concatenate([item.labels[chosen] for _, item, chosen in parts]),
        predicted=np.concatenate([item.predicted[chosen] for _, item, chosen in parts]),
    )


def _read_new(
    model: Model, config: RunConfig, source: str, layer: str, skip_bad: bool, runtime: Runtime, watch: Watch
) -> _New:
    """Features and answers for images from elsewhere."""
    cache, _ = decode_like(
        model.geometry, model.classes, model.max_megapixels, source, skip_bad=skip_bad, needs_labels=False,
        on_message=watch.on_message, on_progress=watch.on_progress,
    )  # fmt: skip
    usable = np.flatnonzero(cache.usable).astype(np.int64)
    rows = usable[evenly(len(usable), MOST_NEW)]
    inverted = opposite_polarity(model.statistics, np.asarray(cache.images[rows]))
    flip = bool(model.config.flip_average)
    if flip or inverted.any():
        inputs = Inputs(model.network, cache)
    else:
        inputs = open_inputs(model.network, config, cache, runtime, layer, watch.on_progress)
    reading = read_layer(
        inputs, rows, runtime, "test", layer, flip_average=flip, inverted=inverted if inverted.any() else None,
        on_progress=watch.on_progress,
    )  # fmt: skip
    if inverted.any():
        share = f"{inverted.sum():,} of {counted(len(rows), 'new image')}"
        watch.on_message(f"{share} are inverted, to the polarity of the training images")
    return _New(cache, rows, inverted, replace(reading, predictions=calibrated(reading.predictions, model.temperature)))


def _separability(
    features_NF: NDArray[np.float32], shown: _Shown, cache: ImageCache, is_learnt: bool, seed: int, watch: Watch
) -> dict[str, Any] | None:
    """The score, and which images it rests on; training images only count for a layer that learnt nothing from them."""
    splits: list[SplitName] = [name for name in SPLITS if name in shown.roles and not (is_learnt and name == "train")]
    labels = np.where(np.isin(shown.roles, splits), shown.labels, -1)
    # Copies of a file are held out together, and so is a group; an empty name is none.
    own = cache.index.groups or ("",) * len(cache.index)
    names = [own[row] or f"\0{cache.content_hash[row]}" for row in shown.rows.tolist()]
    groups = np.unique(np.array(names), return_inverse=True)[1].astype(np.int64)
    found: Separability | None = separability(
        features_NF, labels, cache.index.classes, seed, groups=groups, on_progress=watch.on_progress
    )
    if found is None:
        return None
    return {**to_plain(found), "splits": splits}


def _points(shown: _Shown, cache: ImageCache, drawn: Map) -> list[dict[str, Any]]:
    classes = cache.index.classes
    return [
        {
            "path": cache.index.paths[row],
            "role": role,
            "label": classes[label],
            "predicted": classes[predicted],
            "x": round(x, 4),
            "y": round(y, 4),
        }
        for row, role, label, predicted, (x, y) in zip(
            shown.rows.tolist(),
            shown.roles,
            shown.labels.tolist(),
            shown.predicted.tolist(),
            drawn.points.tolist(),
            strict=True,
        )
    ]


def _new_points(new: _New, features_NF: NDArray[np.float32], drawn: Map) -> list[dict[str, Any]]:
    """New images on the map, and which of them are unlike all that stand there."""
    own = nearest(features_NF, features_NF, 2).distances[:, -1]
    away = nearest(new.reading.features, features_NF, 1).distances[:, 0]
    limit = float(np.quantile(own, FAR_QUANTILE))
    predictions = new.reading.predictions
    classes = predictions.classes
    return [
        {
            "path": path,
            "role": "new",
            "label": classes[label] if label >= 0 else "",
            "predicted": classes[predicted],
            "x": round(x, 4),
            "y": round(y, 4),
            "distance": round(distance, 5),
            "far": distance > limit,
        }
        for path, label, predicted, (x, y), distance in zip(
            predictions.paths,
            predictions.labels.tolist(),
            predictions.predicted.tolist(),
            drawn.place(new.reading.features).tolist(),
            away.tolist(),
            strict=True,
        )
    ]


def _thumbnails(
    points: Sequence[dict[str, Any]], shown: _Shown, cache: ImageCache, new: _New | None
) -> dict[str, Thumbnail]:
    """Small pictures by the position of the point: mistakes first, then new images, then an even part of the rest."""
    ranks = np.array([_rank(point, shown.split) for point in points])
    first = np.argsort(ranks, kind="stable")[: int((ranks < 2).sum())][:MOST_THUMBNAILS].tolist()
    rest = np.flatnonzero(ranks == 2)
    chosen = [*first, *rest[evenly(len(rest), MOST_THUMBNAILS - len(first))].tolist()]
    pictures = {}
    for number in sorted(chosen):
        if number < len(shown.rows):
            image_HWC = np.asarray(cache.images[shown.rows[number]])
        else:
            assert new is not None, "only new images follow those of the run"
            image_HWC = np.asarray(new.cache.images[new.rows[number - len(shown.rows)]])
            image_HWC = 255 - image_HWC if new.inverted[number - len(shown.rows)] else image_HWC
        pictures[str(number)] = make_thumbnail(image_HWC, THUMBNAIL_SIDE)
    return pictures


def _rank(point: dict[str, Any], split: SplitName) -> int:
    """What is worth a picture: mistakes on the judged images, new images, the rest."""
    if point["role"] == "new":
        return 1
    return 2 if point["role"] != split or point["label"] == point["predicted"] else 0


def _folder_name(layer: str) -> str:
    """A layer's name as a folder."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", layer).strip(".") or "layer"


def _command(run: Path, source: str | None, layer: str, perplexity: float | None) -> str:
    words = ["tintype", "embed", str(run), *([] if source is None else [source])]
    words += [] if layer == FEATURES else ["--layer", layer]
    words += [] if perplexity is None else ["--perplexity", f"{perplexity:g}"]
    return shlex.join(words)
