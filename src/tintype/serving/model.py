"""A trained model on disk: weights as safetensors, and everything needed to use them as JSON.

Nothing here is ever unpickled.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from tintype.config import ModelConfig
from tintype.data.decode import Geometry
from tintype.errors import RunError
from tintype.models.build import build_network
from tintype.models.network import Network
from tintype.models.timm_import import import_timm
from tintype.models.weights import load_weights, save_weights
from tintype.records import ImageStatistics
from tintype.rundir import FORMAT_VERSION, RunDir

WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Model:
    """A network with its preprocessing and its classes.

    Attributes:
        network: In inference mode.
        config: Its architecture.
        classes: Class names, in the order of the probabilities.
        geometry: How images are decoded for it.
        statistics: What its training images look like.
        temperature: Divides the logits so that probabilities match frequencies; fitted on validation images.
        max_megapixels: Larger images are refused.
        threshold: An image whose most probable class is less probable than this is not answered; 0 answers all.
    """

    network: Network
    config: ModelConfig
    classes: tuple[str, ...]
    geometry: Geometry
    statistics: ImageStatistics
    temperature: float
    max_megapixels: float
    threshold: float = 0.0


def save_model(run_dir: RunDir, model: Model) -> None:
    """Write ``model.safetensors``, then ``model.json``."""
    save_weights(model.network, run_dir / WEIGHTS, {"format": str(FORMAT_VERSION)})
    content = {
        "format": FORMAT_VERSION,
        "model": model.config.model_dump(exclude_none=True),
        "classes": model.classes,
        "geometry": asdict(model.geometry),
        "statistics": model.statistics,
        "temperature": model.temperature,
        "max_megapixels": model.max_megapixels,
        "threshold": model.threshold,
    }
    run_dir.write_json("model.json", content)


def load_model(run_dir: RunDir) -> Model:
    """Read a model from a run directory.

    Raises:
        RunError: A file is missing, damaged, or of another version.
    """
    content = run_dir.read_json("model.json")
    if content.get("format") != FORMAT_VERSION:
        raise RunError(
            f"{run_dir / 'model.json'} has format {content.get('format')}; this tintype reads {FORMAT_VERSION}."
        )
    config = ModelConfig(**content["model"])
    geometry = Geometry(**content["geometry"])
    classes = tuple(content["classes"])
    if config.backbone is not None:
        import_timm()
    network = build_network(config, (geometry.channels, geometry.size, geometry.size), len(classes))
    load_weights(network, run_dir / WEIGHTS)
    return Model(
        network=network.eval(),
        config=config,
        classes=classes,
        geometry=geometry,
        statistics=ImageStatistics(**content["statistics"]),
        temperature=content["temperature"],
        max_megapixels=content["max_megapixels"],
        threshold=content.get("threshold", 0.0),
    )
