"""Heads trained together against PyTorch's own layers and AdamW, against each trained alone, and heads that fail."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from tintype.config import HeadsConfig
from tintype.data.batches import plan_epoch
from tintype.errors import ConfigError, DataError, NonFiniteError, RunInterrupted
from tintype.models.grammar import parse_layers
from tintype.training.heads import FittedHeads, HeadEpoch, HeadResult, expand, fit_heads
from tintype.training.losses import cross_entropies
from tintype.training.stacked import HeadSetting, Stack

FEATURES = 12


def made(images: int, classes: int, views: int = 1, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (images,), generator=generator)
    centres = torch.randn(classes, FEATURES, generator=torch.Generator().manual_seed(77))
    return torch.randn(views, images, FEATURES, generator=generator) + 0.7 * centres[labels], labels


def fit(
    settings: Sequence[HeadSetting], classes: int = 3, views: int = 1, validation: int = 30, **changes: Any
) -> FittedHeads:
    features, labels = made(40, classes, views)
    held, held_labels = made(validation, classes, seed=1)
    given: dict[str, Any] = {"output": "softmax", "epochs": 4, "batch_size": 8, "seed": 5} | changes
    return fit_heads(features, labels, held[0], held_labels, settings, classes=classes, **given)


def plain_training(
    setting: HeadSetting, module: nn.Sequential, features_KNF: Tensor, labels: Tensor, epochs: int,
    smoothing: float = 0.0, weights: NDArray[np.float32] | None = None,
) -> None:  # fmt: skip
    """The same batches and rates with PyTorch's own optimiser, weights decaying and biases not."""
    views, images = features_KNF.shape[:2]
    slopes = [p for p in module.parameters() if p.ndim > 1]
    biases = [p for p in module.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": slopes, "weight_decay": setting.weight_decay}, {"params": biases, "weight_decay": 0.0}],
        lr=setting.learning_rate, betas=(0.9, 0.99),
    )  # fmt: skip
    steps, done = images // 8, 0
    for epoch in range(epochs):
        plan = plan_epoch(np.arange(images), 8, 5, epoch)
        for indices, passes in zip(plan.indices, plan.passes, strict=True):
            batch = torch.stack(
                [features_KNF[(p + i) % views, i] for i, p in zip(indices.tolist(), passes.tolist(), strict=True)]
            )
            for group in optimizer.param_groups:
                group["lr"] = setting.learning_rate * 0.5 * (1 + math.cos(math.pi * done / (epochs * steps)))
            losses, _ = cross_entropies(module(batch), labels[indices], smoothing)
            if weights is not None:
                losses = losses * torch.from_numpy(weights)[labels[indices]]
            optimizer.zero_grad()
            losses.mean().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            done += 1


def started(setting: HeadSetting, units: int) -> nn.Sequential:
    """A plain module with the head's initial weights."""
    start = {name: tensor[0] for name, tensor in Stack([setting], FEATURES, units, torch.device("cpu")).copy().items()}
    layers: list[nn.Module] = []
    if setting.width:
        layers = [nn.Linear(FEATURES, setting.width), nn.ReLU()]
        layers[0].load_state_dict({"weight": start["hidden.weight"], "bias": start["hidden.bias"]})
    output = nn.Linear(setting.width or FEATURES, units)
    output.load_state_dict({"weight": start["output.weight"], "bias": start["output.bias"]})
    return nn.Sequential(*layers, output)


@pytest.mark.parametrize("width", [0, 6])
@pytest.mark.parametrize(("classes", "output"), [(2, "sigmoid"), (3, "softmax")])
@pytest.mark.parametrize("views", [1, 3])
def test_a_head_is_trained_as_by_pytorchs_adamw(width: int, classes: int, output: str, views: int) -> None:
    settings = [HeadSetting(rate, decay, width, 0.0, seed) for rate, decay, seed in ((0.01, 0.3, 1), (0.1, 0.0, 2))]
    weights = np.array([1.5, 0.5, 1.0], np.float32)[:classes]
    fitted = fit(settings, classes, views, validation=0, output=output, label_smoothing=0.1, class_weights=weights)
    features, labels = made(40, classes, views)
    for number, setting in enumerate(settings):
        plain = started(setting, 1 if output == "sigmoid" else classes)
        before = plain(features[0])
        plain_training(setting, plain, features, labels, 4, 0.1, weights)
        body, head = fitted.module(number)
        logits = head(body(features[0]))
        torch.testing.assert_close(logits, plain(features[0]), atol=1e-4, rtol=1e-4)
        assert (logits - before).abs().max() > 0.1
        assert fitted.results[number].best_epoch == 4
        assert fitted.results[number].history[-1].validation_loss is None


SETTINGS = (
    HeadSetting(0.01, 0.0, 0, 0.0, 0), HeadSetting(0.1, 0.2, 0, 0.0, 1), HeadSetting(0.03, 0.0, 0, 0.4, 0),
    HeadSetting(0.01, 0.1, 0, 0.4, 0), HeadSetting(0.03, 0.0, 0, 0.4, 3), HeadSetting(0.01, 0.0, 5, 0.0, 0),
    HeadSetting(0.02, 0.5, 5, 0.3, 2), HeadSetting(0.01, 0.0, 9, 0.3, 2), HeadSetting(0.02, 0.0, 5, 0.3, 2),
)  # fmt: skip


def test_heads_together_become_what_each_becomes_alone() -> None:
    together = fit(SETTINGS)
    assert [result.setting for result in together.results] == list(SETTINGS)
    for number, setting in enumerate(SETTINGS):
        alone = fit([setting])
        assert alone.results[0].best_epoch == together.results[number].best_epoch
        for name, tensor in alone.weights[0].items():
            torch.testing.assert_close(together.weights[number][name], tensor, atol=1e-5, rtol=1e-5)
        losses = [epoch.validation_loss for epoch in together.results[number].history]
        assert losses == pytest.approx([epoch.validation_loss for epoch in alone.results[0].history], abs=1e-5)


def test_the_kept_weights_are_those_of_the_best_epoch() -> None:
    fitted = fit([HeadSetting(1.0, 0.0, 0, 0.0, 0), HeadSetting(1e-3, 0.0, 4, 0.0, 0)], epochs=8)
    held, labels = made(30, 3, seed=1)
    for number, result in enumerate(fitted.results):
        body, output = fitted.module(number)
        logits = output(body(held[0]))
        best = result.history[result.best_epoch - 1]
        assert [epoch.epoch for epoch in result.history] == list(range(1, 9))
        assert best.validation_loss == min(epoch.validation_loss or math.inf for epoch in result.history)
        assert result.score == best.validation_loss == pytest.approx(nn.functional.cross_entropy(logits, labels).item())
        assert best.validation_accuracy == pytest.approx((logits.argmax(1) == labels).float().mean().item())
    assert fitted.results[0].best_epoch < 8, "this rate was to be too high, so that it gets worse"


def test_training_figures_are_means_over_the_epoch_before_each_step() -> None:
    """With a rate of next to nothing the weights stay, and the figures are those of the initial weights."""
    setting = HeadSetting(1e-30, 0.0, 6, 0.0, 3)
    features, labels = made(40, 3)
    logits = started(setting, 3)(features[0])
    (epoch, *_) = fit([setting]).results[0].history
    assert epoch.train_loss == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), abs=1e-5)
    assert epoch.train_accuracy == pytest.approx((logits.argmax(1) == labels).float().mean().item())


def test_a_head_whose_loss_is_not_finite_stops_alone() -> None:
    bad = HeadSetting(3e38, 0.0, 0, 0.0, 1)
    good = (SETTINGS[0], SETTINGS[1])
    fitted = fit([good[0], bad, good[1]])
    assert fitted.results[1].failed == "its loss was not finite in epoch 1"
    assert fitted.results[1].history == ()
    assert fitted.results[1].score == math.inf
    assert fitted.best() != 1
    for number, setting in ((0, good[0]), (2, good[1])):
        alone = fit([setting])
        assert fitted.results[number].failed == ""
        for name, tensor in alone.weights[0].items():
            torch.testing.assert_close(fitted.weights[number][name], tensor, atol=1e-5, rtol=1e-5)


def test_a_rate_that_is_unusable_is_finite_and_not_chosen() -> None:
    fitted = fit([HeadSetting(rate, 0.0, 0, 0.0, 0) for rate in (0.05, 30.0)], epochs=6)
    assert fitted.results[1].failed == ""
    assert fitted.results[1].score > 5 * fitted.results[0].score
    assert fitted.best() == 0


def test_where_all_fail_it_is_said() -> None:
    settings = [HeadSetting(3e38, 0.0, 0, 0.0, seed) for seed in range(2)]
    fitted = fit(settings)
    with pytest.raises(NonFiniteError, match=r"the 2 heads .* lower learning rates") as raised:
        fitted.best()
    assert len(raised.value.finding.evidence) == 2


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    stack = Stack([HeadSetting(0.1, 0.0, 0, 0.3, 4)], 2_000, 1, torch.device("cpu"))
    ones = torch.ones(50, 2_000)
    with torch.no_grad():
        stack.tensors["output.weight"].fill_(1.0)
    kept = torch.stack([stack.logits(ones, step)[:, 0, 0] for step in range(3)]).detach()
    assert kept.mean().item() == pytest.approx(2_000, rel=5e-3)
    # The number of kept values of 2,000 is binomial.
    assert kept.std().item() == pytest.approx(math.sqrt(2_000 * 0.3 * 0.7) / 0.7, rel=0.15)
    assert not torch.equal(kept[0], kept[1])
    assert torch.equal(stack.logits(ones, 2)[:, 0, 0], kept[2])
    assert (stack.logits(ones) == 2_000).all()


@pytest.mark.parametrize("width", [0, 7])
def test_dropout_differs_between_seeds_and_falls_on_the_hidden_layer_where_there_is_one(width: int) -> None:
    features = torch.randn(9, FEATURES)
    settings = [HeadSetting(0.1, 0.0, width, 0.5, seed) for seed in (1, 2)]
    stacks = [Stack([setting], FEATURES, 2, torch.device("cpu")) for setting in settings]
    for name, tensor in stacks[0].copy().items():
        stacks[1].tensors[name] = tensor
    torch.testing.assert_close(stacks[0].logits(features), stacks[1].logits(features))
    assert not torch.allclose(stacks[0].logits(features, 1), stacks[1].logits(features, 1))
    if width:
        hidden = stacks[0].tensors["hidden.weight"]
        with torch.no_grad():
            hidden.zero_()
            stacks[0].tensors["hidden.bias"].fill_(1.0)
            stacks[0].tensors["output.weight"].fill_(1.0)
        counts = stacks[0].logits(features, 1)[:, 0, 0] / 2
        torch.testing.assert_close(counts, counts.round())
        assert counts.std() > 0


def test_a_head_becomes_modules_of_the_layer_language() -> None:
    fitted = fit(SETTINGS)
    assert [setting.layers for setting in SETTINGS[:3]] == ["", "", "dropout 0.4\n"]
    assert SETTINGS[6].layers == "dense 5 relu\ndropout 0.3\n"
    features, _ = made(20, 3, seed=4)
    for number, setting in enumerate(SETTINGS):
        body, output = fitted.module(number)
        weights = fitted.weights[number]
        hidden = features[0]
        if setting.width:
            hidden = (hidden @ weights["hidden.weight"].T + weights["hidden.bias"]).relu()
        expected = hidden @ weights["output.weight"].T + weights["output.bias"]
        torch.testing.assert_close(output(body.eval()(features[0])), expected)
        assert not setting.layers or len(parse_layers(setting.layers)) == (setting.width > 0) + (setting.dropout > 0)


def test_the_best_head_is_of_the_setting_that_is_best_over_its_seeds() -> None:
    def result(rate: float, seed: int, loss: float, failed: str = "") -> HeadResult:
        return HeadResult(HeadSetting(rate, 0.0, 0, 0.0, seed), (HeadEpoch(1, 1.0, 0.5, loss, 0.5),), 1, failed)

    lucky = [result(0.1, 0, 0.2), result(0.1, 1, 0.9), result(0.2, 0, 0.5), result(0.2, 1, 0.4)]
    fitted = FittedHeads(tuple(lucky), ({},) * 4)
    assert fitted.best() == 3
    assert fitted.mean_score(0) == pytest.approx(0.55)
    failing = (*lucky[:3], result(0.2, 1, 0.1, "its loss was not finite in epoch 2"))
    assert FittedHeads(failing, ({},) * 4).best() == 0


axes = st.lists(st.sampled_from([1e-4, 1e-3, 1e-2, 0.5]), min_size=1, max_size=4).map(tuple)


@given(axes, axes, st.lists(st.integers(0, 5), min_size=1, max_size=3).map(tuple), axes, st.integers(1, 4))
def test_the_grid_is_every_combination_once_with_every_seed(
    rates: tuple[float, ...],
    decays: tuple[float, ...],
    widths: tuple[int, ...],
    dropouts: tuple[float, ...],
    seeds: int,
) -> None:
    config = HeadsConfig(learning_rate=rates, weight_decay=decays, width=widths, dropout=dropouts, seeds=seeds)
    settings = expand(config, seed=10)
    wanted = {
        HeadSetting(rate, decay, width, dropout, 10 + seed)
        for rate in rates for decay in decays for width in widths for dropout in dropouts for seed in range(seeds)
    }  # fmt: skip
    assert len(settings) == len(wanted)
    assert set(settings) == wanted


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rate": (0.1, 0.0)}, "heads.learning_rate must be above 0. Got 0."),
        ({"weight_decay": (-0.1,)}, "heads.weight_decay must be at least 0. Got -0.1."),
        ({"width": (-1,)}, "heads.width must be at least 0. Got -1."),
        ({"dropout": (1.0,)}, "heads.dropout must be from 0 to below 1. Got 1."),
        ({"dropout": ()}, "heads.dropout must have a value. Got none."),
        ({"width": tuple(range(101)), "seeds": 10}, "4,040 combinations; at most 1,000"),
    ],
)
def test_a_grid_that_cannot_be_is_said(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        expand(HeadsConfig(**changes))


def test_rates_are_chosen_where_none_is_given() -> None:
    assert len({setting.learning_rate for setting in expand(HeadsConfig())}) == 4


def test_features_may_be_halved_mapped_or_made_in_inference_mode() -> None:
    setting = [HeadSetting(0.05, 0.0, 4, 0.2, 0)]
    features, labels = made(40, 3)
    features = features.bfloat16().float()
    given: dict[str, Any] = {"classes": 3, "output": "softmax", "epochs": 2, "batch_size": 8, "seed": 0}
    expected = fit_heads(features, labels, features[0], labels, setting, **given).weights[0]
    array, array_labels = features.numpy().copy(), labels.numpy().copy()
    array.flags.writeable = array_labels.flags.writeable = False
    with torch.inference_mode():
        inferred = features.clone()
    for form, form_labels in ((features.bfloat16(), labels), (array, array_labels), (inferred, labels)):
        fitted = fit_heads(form, form_labels, form[0], form_labels, setting, **given)
        assert all(torch.equal(fitted.weights[0][name], tensor) for name, tensor in expected.items())


def test_progress_stopping_and_no_images() -> None:
    seen: list[tuple[str, int, int]] = []
    fit(SETTINGS[:2], on_progress=lambda *step: seen.append(step))
    assert seen == [("training 2 heads", epoch, 4) for epoch in (1, 2, 3, 4)]
    with pytest.raises(RunInterrupted, match="in epoch 1 of 4"):
        fit(SETTINGS[:2], should_stop=lambda: True)
    features, labels = made(40, 3)
    with pytest.raises(DataError, match="no images to train on"):
        fit_heads(
            features[:, :0], labels[:0], features[0], labels, SETTINGS[:1],
            classes=3, output="softmax", epochs=1, batch_size=8, seed=0,
        )  # fmt: skip
