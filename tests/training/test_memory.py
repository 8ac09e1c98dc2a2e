"""How many images fit: counted activations against arithmetic, and the choice of equal parts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tintype.runtime import start_runtime
from tintype.training.memory import activation_bytes, largest_micro_batch


class Scaled(nn.Module):
    """A network whose activations can be counted by hand: input as float, and one hidden map of equal size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.dense = nn.Linear(4, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.dense(self.norm(self.conv(images.float())).amax(dim=(2, 3)))
        return logits


def test_activations_are_counted_without_the_weights_and_leave_the_network_alone() -> None:
    network = Scaled()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    counted = activation_bytes(network, torch.zeros(2, 1, 32, 32, dtype=torch.uint8), start_runtime("cpu", None, 0))
    pixels = 32 * 32 * 4
    # The float image (1 map), the convolution's output and the norm's output (4 maps each).
    assert 5 * pixels <= counted <= 10 * pixels
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name


@given(st.integers(1, 2048), st.integers(1, 10**9), st.integers(0, 10**12))
def test_parts_fit_or_are_single_images(batch: int, needed: int, free: int) -> None:
    part = largest_micro_batch(batch, needed, free)
    assert 1 <= part <= batch
    assert part == 1 or part * needed * 2 <= 0.6 * free + 2 * needed


def test_parts_are_equal_where_a_batch_is_cut() -> None:
    # 100 images fit: 256 go through as 3 parts of 86, not as 100 + 100 + 56.
    assert largest_micro_batch(256, 3, 1000) == 86


@pytest.mark.parametrize("free", [0, 1])
def test_no_memory_at_all_still_tries_one_image(free: int) -> None:
    assert largest_micro_batch(64, 10**6, free) == 1
