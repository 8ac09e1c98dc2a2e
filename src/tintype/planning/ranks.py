"""What several processes change in a recipe: how a step's images are shared, and the learning rate."""

from __future__ import annotations

from tintype.errors import ConfigError
from tintype.planning.chooser import Plan

WARMUP_EPOCHS = 5.0
"""Of a learning rate that grows with the batch (Goyal et al., Accurate, Large Minibatch SGD, 2017, section 2.2)."""

WARMUP_SHARE = 0.2
"""Of all epochs that the warm-up may take."""


def plan_ranks(plan: Plan, ranks: int, training_images: int) -> Plan:
    """Share a step's images among the ranks; one rank changes nothing.

    By default the batch stays what it is and every rank takes its part, so that the training is that of one process.
    With ``parallel.scale_lr`` every rank takes such a batch, and the learning rate grows in proportion (the linear rule
    of Goyal et al., 2017), after a warm-up.

    Raises:
        ConfigError: There are fewer images in a batch than ranks.
    """
    fit = plan.config.fit
    if ranks == 1:
        is_idle = plan.config.parallel.scale_lr
        return plan.noted("parallel.scale_lr", "not used", "there is a single process") if is_idle else plan
    if fit.optimizer == "lbfgs":
        return plan.noted(
            "ranks", str(ranks), "each fits the whole output layer, on features that all have made together"
        )
    assert fit.batch_size is not None
    assert fit.learning_rate is not None
    assert fit.epochs is not None
    scales = plan.config.parallel.scale_lr
    if scales:
        reason = f"{ranks} ranks with {fit.batch_size} images each"
        plan = plan.settled("fit.batch_size", fit.batch_size * ranks, reason)
        plan = plan.settled("fit.learning_rate", fit.learning_rate * ranks, f"grows with the batch: {ranks} times")
        if not fit.warmup_epochs:
            warmup = min(WARMUP_EPOCHS, WARMUP_SHARE * fit.epochs)
            plan = plan.settled("fit.warmup_epochs", warmup, "before a learning rate that is as large as that")
        # What is written down has been scaled: repeating the run must not do so again.
        plan = plan.settled("parallel.scale_lr", False)
    batch = min(plan.config.fit.batch_size or 1, training_images)
    if batch < ranks:
        raise ConfigError(f"a step of {batch} images cannot be shared by {ranks} ranks: take a larger --batch-size.")
    least, rest = divmod(batch, ranks)
    share = f"{least}" if not rest else f"{least} or {least + 1}"
    return plan.noted(
        "ranks",
        str(ranks),
        f"a step of {batch} images is shared, {share} each" + ("" if scales else "; the rate stays"),
    )
