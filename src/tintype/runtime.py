"""Where and how a run computes: device, threads, precision, seeds.

The runtime is made once at the start of a run and passed in; there is no other global state.
"""

from __future__ import annotations

import copy
import ctypes
import importlib
import os
import platform
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from tintype.config import PrecisionName
from tintype.errors import ConfigError
from tintype.ranks.torchrun import rank_of_process, usable_cores
from tintype.ranks.world import ALONE, World

PROBE_PIXELS = 200_000
"""Most pixels in the probe's batch: 6 images of 180 px, or 255 of 28 px; large enough to be representative."""

TIMED_SECONDS = 0.1
"""Steps are timed for so long, one at the least: what a scheduler does to short ones shows."""

CLEARLY = 1.5
"""Slower by this factor the first time needs no second measurement."""

AGREEMENT = 0.25
"""Largest difference of bf16 logits from fp32 ones, as a share of the largest fp32 logit. It is there to find what is
wrong, not what is rounded: MobileNetV2 with an untrained head differs by 5 to 18 %, and fine-tuned on 9,000 images it
was right on 86.3 % of 1,019 others in bf16, on 86.2 % in fp32 (2026-11-22, n = 1)."""


@dataclass(frozen=True)
class Runtime:
    """How a run computes.

    Attributes:
        device: Where the network runs.
        threads: CPU threads for the network and for the image warp.
        seed: Root of everything random.
        precision: ``fp32`` or ``bf16`` (autocast; weights stay fp32).
        evidence: Why this precision, with the probe's figures.
        world: The processes that train together, seen from this one.
        steps_aside: Whether fewer threads may compute for as long as another program wants the cores.
    """

    device: torch.device
    threads: int
    seed: int
    precision: PrecisionName = "fp32"
    evidence: str = ""
    world: World = ALONE
    steps_aside: bool = False

    @property
    def by_itself(self) -> Runtime:
        """The same for work that the other processes have no part in."""
        return replace(self, world=ALONE)

    def autocast(self) -> AbstractContextManager[object]:
        """The context in which forward passes run."""
        return autocast(self.device, self.precision)


def start_runtime(device: str, threads: int | None, seed: int, world: World = ALONE) -> Runtime:
    """Choose the device and set the thread count.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        threads: CPU threads, or None for as many as there are cores that this process may use; where the environment
            variable OMP_NUM_THREADS is set, for no more than that.
        seed: Root of everything random in the run.
        world: The processes that train together. Those of one machine share its cores, and each has a GPU of its own.

    Raises:
        ConfigError: The device does not exist here.
    """
    name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if name == "cuda" and world.local_size > 1:
        name = f"cuda:{world.local_rank}"
    try:
        chosen = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device must be auto, cpu, cuda or cuda:N. Got {device!r}.") from None
    if chosen.type not in ("cpu", "cuda"):
        raise ConfigError(f"device must be auto, cpu, cuda or cuda:N. Got {device!r}.")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device {name!r} is not here: {torch.cuda.device_count()} CUDA devices. Use --device cpu.")
    count = threads or _threads_to_use()
    torch.set_num_threads(count)
    _keep_freed_memory()
    if chosen.type == "cuda":
        # A resumed run must end bit-identical: only kernels that add up in a fixed order.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
    return Runtime(device=chosen, threads=count, seed=seed, world=world)


def _threads_to_use() -> int:
    """As many as usable cores, or as OMP_NUM_THREADS says where that is less.

    torchrun sets it to 1 for all that it starts, so that there it says nothing of what anybody wants.
    """
    cores, said = usable_cores(), os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if rank_of_process() is not None or not said.isdecimal():
        return cores
    return max(1, min(cores, int(said)))


def _keep_freed_memory() -> None:
    """Ask glibc not to hand freed memory back to the system.

    A training step frees and takes the same gigabyte again; each time the system would map it anew, page by page.
    On two AMD EPYC cores (2026-11-20, torch 2.15, bf16, best of 6 and of 60 steps) the labs' A2 went from 62 to 97
    images a second at 18 % more memory, and E3 from 3,150 to 5,137.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX of malloc.h
    libc = ctypes.CDLL(None)
    libc.mallopt(trim_threshold, -1)
    libc.mallopt(mmap_max, 0)


def import_ahead(module: str) -> None:
    """Import a module in the background, for when it will be needed; whoever imports it meanwhile waits for it."""
    threading.Thread(target=importlib.import_module, args=(module,)).start()


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Let every thread of Python compute on one core, for work that several of them share.

    Two threads that meet at the end of each operation stand still when another program takes one of the cores, since
    the other spins: MobileNetV2's features, 224 px, bf16, two Intel cores (2026-11-21), fell from 418 images a second
    to 19 beside one busy process. A batch for each thread reaches 445 alone, and 214 beside it.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def autocast(device: torch.device, precision: PrecisionName) -> AbstractContextManager[object]:
    """Mixed precision for ``bf16``, nothing for ``fp32``."""
    if precision == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def choose_precision(runtime: Runtime, network: nn.Module, inputs: torch.Tensor, wanted: PrecisionName) -> Runtime:
    """Measure a training step of the actual network in fp32 and bf16 and take the faster that agrees.

    On some CPUs and shapes bf16 is many times slower than fp32, on others twice as fast; only a measurement
    tells. The network is copied, so its weights and statistics stay as they are.

    Args:
        runtime: What is chosen so far.
        network: Takes the inputs and gives logits.
        inputs: A batch like those it will be trained on, such as :func:`probe_images` makes.
        wanted: ``auto`` to measure; otherwise taken as it is.
    """
    if wanted != "auto":
        return replace(runtime, precision=wanted, evidence="as set")
    trial = copy.deepcopy(network)
    count = len(inputs)
    difference = _disagreement(trial, inputs, runtime.device)
    if not difference <= AGREEMENT:
        evidence = f"bf16 logits differ from fp32 by {difference:.0%} of their largest value"
        return replace(runtime, precision="fp32", evidence=evidence)
    seconds: dict[PrecisionName, list[float]] = {"fp32": [], "bf16": []}
    precisions: tuple[PrecisionName, ...] = ("fp32", "bf16")
    for round_number in range(4):
        for precision in precisions:
            elapsed = _timed_step(trial, inputs, runtime.device, precision)
            if round_number:  # the first builds kernels
                seconds[precision].append(elapsed)
    fp32, bf16 = (count / statistics.median(seconds[name]) for name in precisions)
    faster: PrecisionName = "bf16" if bf16 > fp32 else "fp32"
    evidence = (
        f"a training step of {count} images: fp32 {fp32:,.0f}, bf16 {bf16:,.0f} images per second; "
        f"logits differ by {difference:.1%}"
    )
    return replace(runtime, precision=faster, evidence=evidence)


def step_seconds(runtime: Runtime, network: nn.Module, inputs: torch.Tensor, begin: Callable[[], None]) -> float:
    """Median seconds of a training step as it would be computed now. The network's weights stay as they are.

    Args:
        runtime: Device and precision.
        network: Takes the inputs and gives logits.
        inputs: A batch like those it will be trained on.
        begin: Called before the first step that counts; the one before it builds kernels.
    """
    trial = copy.deepcopy(network)
    _timed_step(trial, inputs, runtime.device, runtime.precision)
    begin()
    took: list[float] = []
    while sum(took) < TIMED_SECONDS:
        took.append(_timed_step(trial, inputs, runtime.device, runtime.precision))
    return statistics.median(took)


def choose_inference_precision(
    runtime: Runtime, networks: dict[PrecisionName, nn.Module], inputs: torch.Tensor
) -> tuple[PrecisionName, str]:
    """Measure inference in fp32 and bf16 and take the faster that agrees.

    Args:
        runtime: Device and threads.
        networks: The same network as it would run in ``fp32`` and in ``bf16``, in inference mode.
        inputs: A batch of the size that it will get.

    Returns:
        The precision, and why.
    """
    # The first time builds kernels, which belong to a batch's size, and shows whether both agree. bf16 goes first, and
    # pays for the memory that both use: being ahead all the same settles it.
    rounded, bf16_seconds = _timed_outputs(networks["bf16"], inputs, runtime.device, "bf16")
    exact, fp32_seconds = _timed_outputs(networks["fp32"], inputs, runtime.device, "fp32")
    difference = _relative_difference(exact, rounded)
    if not difference <= AGREEMENT:
        return "fp32", f"bf16 features differ from fp32 by {difference:.0%} of their largest value"
    if fp32_seconds <= CLEARLY * bf16_seconds:
        bf16_seconds = _timed_outputs(networks["bf16"], inputs, runtime.device, "bf16")[1]
        fp32_seconds = _timed_outputs(networks["fp32"], inputs, runtime.device, "fp32")[1]
    faster: PrecisionName = "bf16" if bf16_seconds < fp32_seconds else "fp32"
    return faster, (
        f"the frozen layers on {len(inputs)} images: fp32 {len(inputs) / fp32_seconds:,.0f}, bf16 "
        f"{len(inputs) / bf16_seconds:,.0f} images per second on one core; features differ by {difference:.1%}"
    )


def probe_images(
    input_shape: tuple[int, int, int], batch_size: int, device: torch.device, most_pixels: int = PROBE_PIXELS
) -> torch.Tensor:
    """Random uint8 images to measure with: as many as a batch has, or fewer where they are large.

    Args:
        input_shape: (C, H, W).
        batch_size: Images in a batch.
        device: Where the network runs.
        most_pixels: In all images together.
    """
    count = max(2, min(batch_size, most_pixels // (input_shape[1] * input_shape[2])))
    generator = torch.Generator().manual_seed(0)
    images_NCHW = torch.randint(0, 256, (count, *input_shape), dtype=torch.uint8, generator=generator)
    return images_NCHW.to(device).contiguous(memory_format=torch.channels_last)


def _disagreement(network: nn.Module, inputs: torch.Tensor, device: torch.device) -> float:
    """Largest difference between fp32 and bf16 outputs, as a share of the largest fp32 output."""
    network.eval()
    exact, _ = _timed_outputs(network, inputs[:8], device, "fp32")
    rounded, _ = _timed_outputs(network, inputs[:8], device, "bf16")
    return _relative_difference(exact, rounded)


def _relative_difference(exact: torch.Tensor, rounded: torch.Tensor) -> float:
    largest = exact.abs().max().item()
    return (exact - rounded).abs().max().item() / largest if largest else 0.0


def _timed_outputs(
    network: nn.Module, inputs: torch.Tensor, device: torch.device, precision: PrecisionName
) -> tuple[torch.Tensor, float]:
    """What a network in inference mode gives, in fp32, and how many seconds it took."""
    _wait(device)
    started = time.perf_counter()
    with torch.inference_mode(), autocast(device, precision):
        outputs: torch.Tensor = network(inputs)
    _wait(device)
    return outputs.float(), time.perf_counter() - started


def _timed_step(network: nn.Module, inputs: torch.Tensor, device: torch.device, precision: PrecisionName) -> float:
    network.train()
    network.zero_grad(set_to_none=True)
    _wait(device)
    started = time.perf_counter()
    with autocast(device, precision):
        logits = network(inputs)
    logits.float().logsumexp(dim=1).mean().backward()
    _wait(device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def available_memory(device: torch.device, limit_gb: float | None = None) -> int:
    """Bytes that activations may take: free memory of the device, within the user's limit and the container's."""
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    else:
        free = min(_meminfo_available(), _cgroup_available())
    return min(free, int(limit_gb * 2**30)) if limit_gb else free


def _meminfo_available() -> int:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _cgroup_available() -> int:
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 2**62
    return 2**62 if limit == "max" else max(int(limit) - used, 0)


def processor_name() -> str:
    """The CPU's name as its maker gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far, in MiB."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if platform.system() == "Darwin" else peak / 2**10
