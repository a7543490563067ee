import pytest
import torch
from torch import nn

from utils.config import Config
from utils.data.tokens import Batch
from utils.training.averaging import Averager
from utils.training.batch_norm import refresh_batch_norm


def random_walk(averager, model, steps, last):
    """Set random weights at every step; returns the steps and weights that were averaged."""
    averaged = []
    for step in range(1, steps + 1):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn_like(parameter))
        if averager.is_due(step, last):
            averager.update(model, list(model.parameters()))
            averaged.append((step, [parameter.detach().clone() for parameter in model.parameters()]))
    return averaged


@pytest.mark.parametrize(
    ("overrides", "steps"),
    [
        ({"swa_start": 3}, [40, 50]),
        ({"swa_start": 2.5}, [30, 40, 50]),
        ({"swa_start": 2, "epochs": 4.5}, [30, 40, 45]),
        ({"swa_start": 3, "swa_every": 6}, [36, 42, 48]),
        ({"swa_start": 0, "swa_every": 20}, [20, 40]),
        ({"swa_start": 4.7, "averaging": "ema"}, [48, 49, 50]),
        ({"swa_start": 4, "averaging": "ema", "swa_every": 5}, [45, 50]),
    ],
)
def test_which_steps_are_averaged(overrides, steps):
    config = Config.make("demo", **{"epochs": 5, "swa_every": 0, **overrides})
    last = round(config.epochs * 10)
    model = nn.Linear(3, 2)
    averaged = random_walk(Averager(model, config, 10), model, last, last)
    assert [step for step, _ in averaged] == steps


def test_swa_is_the_unweighted_mean():
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1))
    averager = Averager(model, Config.make("demo", swa_start=1, swa_every=3), 10)
    averaged = random_walk(averager, model, 50, 50)
    assert averager.n_averaged == len(averaged) == 13
    for i, parameter in enumerate(averager.model.parameters()):
        mean = torch.stack([weights[i] for _, weights in averaged]).double().mean(dim=0)
        torch.testing.assert_close(parameter.detach().double(), mean, rtol=1e-5, atol=1e-6)


def test_ema_moves_by_its_decay():
    model = nn.Linear(4, 3)
    averager = Averager(model, Config.make("demo", swa_start=1, averaging="ema", ema_decay=0.8), 10)
    averaged = random_walk(averager, model, 50, 50)
    expected = averaged[0][1][0]
    for _, weights in averaged[1:]:
        expected = 0.8 * expected + 0.2 * weights[0]
    torch.testing.assert_close(averager.model.weight.detach(), expected)


def test_the_average_of_a_half_precision_model_is_that_of_its_float32_masters():
    model = nn.Linear(4, 3)
    averager = Averager(model, Config.make("demo"), 10)
    masters = [parameter.detach().clone() + 1e-4 for parameter in model.parameters()]
    averager.update(model.to(torch.bfloat16), masters)
    assert averager.model.weight.dtype == torch.float32
    assert torch.equal(averager.model.weight, masters[0])


class Normalised(nn.Module):
    """A model with batch norm whose inputs are dictionaries."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(2)

    def forward(self, values, extras):
        return self.norm(values)


def test_batch_norm_statistics_are_those_of_the_batches():
    torch.manual_seed(0)
    model = Normalised()
    model.norm.running_mean.fill_(99)
    batches = [Batch({"values": torch.randn(8, 2) * 3 + 5}, torch.zeros(8, 1), {}) for _ in range(20)]
    refresh_batch_norm(model.eval(), batches)
    values = torch.stack([batch.inputs["values"] for batch in batches])
    torch.testing.assert_close(model.norm.running_mean, values.mean(dim=(0, 1)))
    torch.testing.assert_close(model.norm.running_var, values.var(dim=1).mean(dim=0))
    assert not model.training


def test_models_without_batch_norm_are_not_run():
    def batches():
        raise AssertionError("a needless pass over the data")
        yield

    refresh_batch_norm(nn.LayerNorm(2), batches())
