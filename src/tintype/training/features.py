"""Frozen layers run once: what they say of every image, and of each changed view of it, is kept on disk.

A network is cut at the last place before its first trained layer. What lies before the cut is run once per image and
view, in the precision that a probe found fastest; what lies behind it is a :class:`Tail` that trains on what was kept.
The kept features are found again by the weights before the cut, the images and the views: runs and studies share them.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn

from tintype.config import AugmentConfig, FitConfig, PrecisionName
from tintype.data.augment import draw_warps
from tintype.data.batches import changed_images, feature_batches
from tintype.data.cache import ImageCache
from tintype.data.features import FeatureCache, bf16_bits, foretell, missing_bytes, open_features
from tintype.data.split import Split
from tintype.models.build import backbone_of
from tintype.models.fused import Front, can_fuse, fused
from tintype.models.graph import Boundary, split_backbone
from tintype.models.network import Network, Tail
from tintype.records import OnProgress, silent
from tintype.runtime import Runtime, autocast, choose_inference_precision, one_thread_each, probe_images

FEATURES_VERSION = 1
"""Raised whenever the same layers and images would give other features, so that they are computed anew."""

VIEWS_SEED = 0
"""Views belong to the features, not to a run: runs with other seeds share them."""

FRONT_PIXELS = 400_000
"""Pixels in a batch through the frozen layers: 8 images of 224 px. Two Intel cores with AMX, bf16, a batch on each:
MobileNetV2 takes 359 images a second in batches of 4, 417 of 8, 445 of 16, 352 of 32; VGG16 45 of 8, and 31 of 16."""

ROUNDS = 8
"""Batches that each core gets before what they gave is written."""

PROBED_IMAGES = 4
VECTOR_BATCH = 1024


@dataclass(frozen=True)
class CutNetwork:
    """A network in two parts.

    Attributes:
        front: Images in, features out; nothing in it trains.
        tail: Features in, logits out; shares the whole network's parameters.
        boundary: Where it was cut.
    """

    front: Front
    tail: Tail
    boundary: Boundary


def cut_network(network: Network, boundary: Boundary) -> CutNetwork | None:
    """Cut a network at its freeze boundary; None where nothing is frozen or there is no place to cut."""
    backbone = backbone_of(network)
    if backbone is None or boundary.frozen == 0 or not (boundary.is_everything or boundary.cut >= 0):
        return None
    before, behind = split_backbone(backbone, boundary)
    front = Front(before, network.mean, network.std)
    return CutNetwork(front, Tail(network, behind, _shape_of(front, network)), boundary)


def choose_front_precision(
    cut: CutNetwork, runtime: Runtime, cache: ImageCache, wanted: PrecisionName
) -> tuple[PrecisionName, str]:
    """In which precision the frozen layers run, and why.

    Args:
        cut: The network in two parts.
        runtime: Where they run.
        cache: The images that they will see.
        wanted: ``auto`` takes the one in which features of these images are kept already, and else measures. Ranks take
            what any of them has kept, since the others get it from there, and else what the writer measures.
    """
    if wanted != "auto":
        return wanted, "as set"
    precisions: tuple[PrecisionName, ...] = ("bf16", "fp32")
    shape = _kept_shape(cut.tail.feature_shape)
    kept = runtime.world.any(
        *(is_kept(features_key(cut.front, cache, precision), shape, cache, precision) for precision in precisions)
    )
    for precision, is_there in zip(precisions, kept, strict=True):
        if is_there:
            return precision, "the features of these images are kept in it"
    chosen, evidence = runtime.world.ask_writer(lambda: _measured_precision(cut, runtime, cache))
    return chosen, evidence


def _measured_precision(cut: CutNetwork, runtime: Runtime, cache: ImageCache) -> tuple[PrecisionName, str]:
    networks: dict[PrecisionName, nn.Module] = {
        precision: fast_front(cut.front, precision, runtime.device) for precision in ("fp32", "bf16")
    }
    size, channels = cache.geometry.size, cache.geometry.channels
    images_NCHW = probe_images((channels, size, size), front_batch_size(size), runtime.device, FRONT_PIXELS)
    with one_thread_each():
        return choose_inference_precision(runtime, networks, images_NCHW)


def some_features(
    cut: CutNetwork, cache: ImageCache, split: Split, config: FitConfig, runtime: Runtime
) -> torch.Tensor:
    """A batch to measure the tail with: real features of a few images, again and again.

    Random numbers will not do: features behind a ReLU are mostly 0, and on others bf16 seems less exact than it is.
    """
    few = split.train[:PROBED_IMAGES]
    front = fast_front(cut.front, config.feature_precision, runtime.device)
    images_NCHW = changed_images(cache, few, None, "nearest", runtime.device, threads=1)
    with torch.inference_mode(), autocast(runtime.device, config.feature_precision):
        features = front(images_NCHW).float()
    batch = max(2, config.batch_size or 1)
    # Copied outside inference mode, since a training step is measured on them.
    repeated = features.repeat(-(-batch // len(few)), *[1] * (features.ndim - 1))[:batch].clone()
    if repeated.ndim == 4:
        repeated = repeated.contiguous(memory_format=torch.channels_last)
    assert isinstance(repeated, torch.Tensor)
    return repeated


def is_kept(key: str, shape: tuple[int, ...], cache: ImageCache, precision: PrecisionName) -> bool:
    """True where the features of all images as they are lie on disk."""
    none = np.zeros(0, np.int64)
    return missing_bytes(key, shape, precision == "bf16", cache.usable, none, views=1, views_key="") == 0


def fast_front(front: Front, precision: PrecisionName, device: torch.device) -> nn.Module:
    """The frozen layers as they run: fused where that is possible."""
    if not can_fuse(device):
        return front
    return Front(fused(front.layers, precision), front.mean, front.std)


def front_batch_size(image_size: int) -> int:
    """Images that go through the frozen layers at once."""
    return max(4, min(512, FRONT_PIXELS // image_size**2))


def run_frozen(
    cut: CutNetwork,
    cache: ImageCache,
    split: Split,
    config: FitConfig,
    augment: AugmentConfig,
    runtime: Runtime,
    on_progress: OnProgress = silent,
) -> FeatureCache:
    """Run the layers before the cut over all images, or open what an earlier call kept.

    Args:
        cut: The network in two parts.
        cache: The decoded images.
        split: Changed views are made of its training images alone.
        config: ``views``, ``feature_precision`` and ``feature_cache_gb`` count.
        augment: How views are changed; resolved.
        runtime: Device and threads; the ranks of its world all call this and share the work.
        on_progress: Told how many images, views counted each, have been through.

    Raises:
        DataError: The features do not fit on the disk or within ``feature_cache_gb``; the same on all ranks.
    """
    precision, device = config.feature_precision, runtime.device
    front = fast_front(cut.front, precision, device)
    size = cache.geometry.size
    assert augment.fill is not None, "the settings must be resolved"
    fill = augment.fill

    def run_batch(view: int, indices: NDArray[np.int64]) -> NDArray[np.generic]:
        warps = draw_warps(augment, VIEWS_SEED, view, indices, size) if view else None
        images_NCHW = changed_images(cache, indices, warps, fill, device, threads=1)
        with torch.inference_mode(), autocast(device, precision):
            features = front(images_NCHW)
        features = features.permute(0, 2, 3, 1) if features.ndim == 4 else features
        return bf16_bits(features) if precision == "bf16" else features.float().cpu().numpy()

    # A GPU is fed by one thread; on a CPU each core has a batch of its own.
    threads, batch = 1 if device.type == "cuda" else runtime.threads, front_batch_size(size)
    with ThreadPoolExecutor(threads, thread_name_prefix="tintype-features") as pool, one_thread_each():

        def run(view: int, indices: NDArray[np.int64]) -> NDArray[np.generic]:
            batches = (indices[start : start + batch] for start in range(0, len(indices), batch))
            return np.concatenate(list(pool.map(lambda part: run_batch(view, part), batches)))

        return open_features(
            cache.index, features_key(cut.front, cache, precision), _kept_shape(cut.tail.feature_shape),
            is_bf16=precision == "bf16", usable=cache.usable, trained=np.sort(split.train), views=config.views or 1,
            views_key=repr(augment.resolved()), run=run, block_rows=ROUNDS * threads * batch,
            most_bytes=int(config.feature_cache_gb * 2**30), on_progress=on_progress, world=runtime.world,
        )  # fmt: skip


@torch.inference_mode()
def vectors(
    tail: Tail, features: FeatureCache, indices: NDArray[np.int64], views: NDArray[np.int64], runtime: Runtime
) -> torch.Tensor:
    """What the output layer of a tail sees, (R, F) fp32 on the device; the tail is in inference mode afterwards.

    Args:
        tail: Without layers that train before its output layer.
        features: What the frozen layers said.
        indices: (R,) positions in the index.
        views: (R,) number of the view of each.
        runtime: Where it is computed.
    """
    tail.eval()
    assert isinstance(tail.head, nn.Linear)
    found = [torch.zeros(0, tail.head.in_features, device=runtime.device)]
    for batch in feature_batches(features, indices, views, VECTOR_BATCH, runtime.device):
        found.append(tail.features(batch.images))
    return torch.cat(found)


def features_bytes(cut: CutNetwork, cache: ImageCache, split: Split, config: FitConfig) -> int:
    """What the features will take on disk."""
    shape, is_bf16 = _kept_shape(cut.tail.feature_shape), config.feature_precision == "bf16"
    return foretell(cache.usable, np.sort(split.train), config.views or 1, shape, is_bf16)


def features_key(front: Front, cache: ImageCache, precision: PrecisionName) -> str:
    """Hash of everything that decides what the features of an unchanged image are."""
    digest = hashlib.blake2b(f"features {FEATURES_VERSION}, {precision}, {cache.fingerprint}".encode(), digest_size=16)
    code = front.layers.code if isinstance(front.layers, fx.GraphModule) else repr(front.layers)
    digest.update(code.encode())
    for name, tensor in front.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().float().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def _kept_shape(feature_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Maps are kept with the channels last, as convolutions want them in memory."""
    return (*feature_shape[1:], feature_shape[0]) if len(feature_shape) == 3 else feature_shape


def _shape_of(front: Front, network: Network) -> tuple[int, ...]:
    images_NCHW = torch.zeros(1, *network.input_shape, dtype=torch.uint8, device=network.mean.device)
    with torch.inference_mode():
        return tuple(front(images_NCHW).shape[1:])
