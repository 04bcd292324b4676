"""The loop that trains, against torch's own schedules and closed forms."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from optimizers.contract.errors import InvalidDocument, RunFailed
from optimizers.contract.training import Training
from optimizers.training import Trained, rate_share, train


def line(slope: float = 3.0, items: int = 200) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.linspace(-1, 1, items).unsqueeze(1)
    return x, slope * x + 0.5


def fit(training: Training, *, seed: int = 0, slope: float = 3.0) -> tuple[nn.Linear, Trained]:
    x, y = line(slope)
    torch.manual_seed(1)
    module = nn.Linear(1, 1)
    trained = train(
        module,
        len(x),
        lambda numbers: nn.functional.mse_loss(module(x[numbers]), y[numbers]),
        training,
        seed=seed,
        report=lambda share, text: None,
    )
    return module, trained


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("schedule", ["constant", "step", "cosine", "one_cycle"])
def test_a_line_is_found(optimizer: str, schedule: str) -> None:
    training = Training(
        optimizer=optimizer,  # type: ignore[arg-type]
        schedule=schedule,  # type: ignore[arg-type]
        learning_rate=0.1,
        weight_decay=0.0,
        batch_size=20,
        epochs=30,
    )
    module, trained = fit(training)
    assert trained.after < 1e-3 < trained.before
    assert module.weight.item() == pytest.approx(3.0, abs=0.05)


@pytest.mark.parametrize("steps", [10, 97, 400])
def test_one_cycle_is_that_of_torch(steps: int) -> None:
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 1.0, total_steps=steps, cycle_momentum=False
    )
    for step in range(steps):
        ours = rate_share(Training(schedule="one_cycle"), step, steps)
        assert ours == pytest.approx(theirs.get_last_lr()[0], abs=1e-6)
        optimizer.step()
        theirs.step()


def test_the_other_schedules_by_their_formulas() -> None:
    step = [rate_share(Training(schedule="step"), one, 100) for one in (0, 49, 50, 74, 75, 99)]
    assert step == [1.0, 1.0, 0.1, 0.1, 0.01, 0.01]
    cosine = Training(schedule="cosine")
    assert [round(rate_share(cosine, one, 100), 4) for one in (0, 50)] == [1.0, 0.5]
    assert rate_share(cosine, 99, 100) < 0.001
    warm = Training(schedule="constant", warm_up=0.1)
    assert [rate_share(warm, one, 100) for one in (0, 4, 9, 10, 99)] == [0.1, 0.5, 1.0, 1.0, 1.0]


def test_accumulating_is_one_large_batch() -> None:
    common = {"optimizer": "sgd", "momentum": 0.0, "schedule": "constant", "learning_rate": 0.05}
    large, _ = fit(Training(batch_size=60, epochs=3, **common))  # type: ignore[arg-type]
    small, _ = fit(Training(batch_size=20, accumulate=3, epochs=3, **common))  # type: ignore[arg-type]
    assert torch.allclose(large.weight, small.weight, atol=1e-6)


def test_the_same_seed_gives_the_same_weights_and_another_does_not() -> None:
    training = Training(batch_size=20, epochs=2)
    weights = [fit(training, seed=seed)[0].weight.item() for seed in (5, 5, 6)]
    assert weights[0] == weights[1] != weights[2]


def test_patience_ends_it_and_keeps_the_best_weights() -> None:
    training = Training(
        optimizer="sgd",
        learning_rate=1.05,  # overshoots: the loss rises from some epoch on
        momentum=0.99,
        schedule="constant",
        batch_size=20,
        epochs=50,
        patience=2,
    )
    _, trained = fit(training)
    assert trained.stopped_early
    assert trained.epochs < 50
    assert trained.after <= trained.before


def test_a_loss_without_bounds_is_told_with_what_to_change() -> None:
    training = Training(
        optimizer="sgd", learning_rate=1e6, schedule="constant", batch_size=20, epochs=20
    )
    with pytest.raises(RunFailed, match=r"training diverged.*learning_rate below 1e\+06"):
        fit(training)


def test_the_average_of_the_weights_replaces_them() -> None:
    seen: list[float] = []
    x, y = line()
    torch.manual_seed(1)
    module = nn.Linear(1, 1)
    training = Training(ema=0.9, batch_size=20, epochs=2, learning_rate=0.05)
    train(
        module,
        len(x),
        lambda numbers: nn.functional.mse_loss(module(x[numbers]), y[numbers]),
        training,
        seed=0,
        report=lambda share, text: None,
        after_step=lambda: seen.append(module.weight.item()),
    )
    *steps, _ = seen  # the last is said after the average was taken
    average = steps[0]
    for step, weight in enumerate(steps[1:], start=2):
        decay = min(0.9, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * weight
    assert module.weight.item() == pytest.approx(average, abs=1e-5)


def test_no_item_is_left_alone_for_the_statistics_of_a_batch() -> None:
    x = torch.randn(72, 3)  # 65 train: a batch of 64 and one more
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    trained = train(
        module,
        len(x),
        lambda numbers: module(x[numbers]).square().mean(),
        Training(epochs=1, batch_size=64),
        seed=0,
        report=lambda share, text: None,
    )
    assert trained.held_out == 7


def test_gradients_are_clipped() -> None:
    x, y = line(slope=1000.0)
    torch.manual_seed(1)
    module = nn.Linear(1, 1)
    seen: list[torch.Tensor] = [module.weight.detach().clone()]
    training = Training(
        optimizer="sgd",
        momentum=0.0,
        weight_decay=0.0,
        learning_rate=0.1,
        schedule="constant",
        clip_norm=1.0,
        batch_size=20,
        epochs=1,
    )
    train(
        module,
        len(x),
        lambda numbers: nn.functional.mse_loss(module(x[numbers]), y[numbers]),
        training,
        seed=0,
        report=lambda share, text: None,
        after_step=lambda: seen.append(module.weight.detach().clone()),
    )
    moves = [float((one - other).abs()) for one, other in itertools.pairwise(seen)]
    assert 0 < max(moves) <= 0.1 + 1e-6


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"epochs": 0}, "training.epochs must be at least 1, got 0"),
        ({"momentum": 1.0}, r"training.momentum must be in \[0, 1\), got 1.0"),
        ({"learning_rate": 0.0}, "training.learning_rate must be above 0, got 0.0"),
        ({"nesterov": True, "momentum": 0.0}, "training.momentum must be above 0 with nesterov"),
    ],
)
def test_parameters_out_of_range_are_told(wrong: dict[str, float], text: str) -> None:
    with pytest.raises(InvalidDocument, match=text):
        Training(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("sizes", [[10] * 20, [3] * 30 + [110], [1] * 200])
def test_items_of_one_cluster_train_together_or_are_held_out_together(sizes: list[int]) -> None:
    clusters = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    clusters = clusters[torch.randperm(200, generator=torch.Generator().manual_seed(3))]
    module, seen = nn.Linear(1, 1), {True: set[int](), False: set[int]()}

    def loss_of(numbers: torch.Tensor) -> torch.Tensor:
        seen[module.training].update(numbers.tolist())
        loss: torch.Tensor = module(torch.ones(1)).square().mean()
        return loss

    trained = train(
        module,
        200,
        loss_of,
        Training(epochs=1),
        seed=0,
        report=lambda share, text: None,
        clusters=clusters,
    )
    assert 20 <= trained.held_out == len(seen[False]) < 30
    assert seen[True] | seen[False] == set(range(200))
    both = [set(clusters[list(numbers)].tolist()) for numbers in seen.values()]
    assert not both[0] & both[1]


def test_nothing_is_held_out_of_a_single_cluster() -> None:
    module = nn.Linear(1, 1)
    trained = train(
        module,
        40,
        lambda numbers: module(torch.ones(1)).square().mean(),
        Training(epochs=1),
        seed=0,
        report=lambda share, text: None,
        clusters=torch.zeros(40, dtype=torch.int64),
    )
    assert trained.held_out == 40
