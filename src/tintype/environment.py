"""What a result depends on besides data and settings: versions, hardware, precision, source."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import torch

from tintype.ranks.torchrun import usable_cores
from tintype.rundir import FORMAT_VERSION, source_hash
from tintype.runtime import Runtime, processor_name

LIBRARIES = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "pillow", "opencv-python-headless")


def describe_environment(runtime: Runtime, command: str) -> dict[str, Any]:
    """The content of ``environment.json`` that is known when a run starts.

    Args:
        runtime: Device, threads, precision and seed.
        command: The command line that repeats the run.
    """
    device = runtime.device
    return {
        "format": FORMAT_VERSION,
        "tintype": version("tintype"),
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
        "system": platform.platform(),
        "processor": processor_name(),
        "cores": usable_cores(),
        "threads": runtime.threads,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "ranks": list(runtime.world.hosts) if not runtime.world.is_alone else [],
        "precision": runtime.precision,
        "precision_evidence": runtime.evidence,
        "seed": runtime.seed,
        "source_hash": source_hash(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command,
    }
