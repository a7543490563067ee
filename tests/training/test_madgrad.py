"""Our MADGRAD against its authors' package."""

import copy
import shutil

import madgrad
import pytest
import torch

from utils.training import madgrad as ours

needs_compiler = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")), reason="needs a C++ compiler"
)


def problem(seed=0):
    """Weights of several shapes in two groups, and the gradients of 200 steps."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(40, 30), (30,), (1,), (7, 5, 3)]
    weights = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    sizes = [1.0, 1e-3, 1e-6, 1.0]
    gradients = [
        [torch.randn(shape, generator=generator) * size for shape, size in zip(shapes, sizes, strict=True)]
        for _ in range(200)
    ]
    return weights, gradients


def groups(weights, decay):
    return [{"params": weights[:2], "lr": 1e-2, "weight_decay": decay}, {"params": weights[2:], "lr": 3e-3}]


def run(optimizer, weights, gradients, first=0):
    """200 steps, 20 of them a warm-up; the fourth tensor has a gradient at every other step only."""
    peaks = [group["lr"] for group in optimizer.param_groups] if not first else [1e-2, 3e-3]
    for step, row in enumerate(gradients, start=first):
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * min(1, step / 20)
        for i, (weight, gradient) in enumerate(zip(weights, row, strict=True)):
            weight.grad = gradient.clone() if i != 3 or step % 2 else None
        optimizer.step()


@pytest.fixture(params=["together", pytest.param("compiled", marks=needs_compiler)])
def way(request, monkeypatch):
    monkeypatch.setattr(ours, "SMALL", 2 if request.param == "compiled" else 10**9)
    return request.param


@pytest.mark.parametrize("momentum", [0.9, 0.0, 0.5])
@pytest.mark.parametrize("decay", [0.0, 1e-2])
def test_the_same_weights_as_the_package_over_200_steps(way, momentum, decay):
    weights, gradients = problem()
    theirs = [torch.nn.Parameter(weight.detach().clone()) for weight in weights]
    run(madgrad.MADGRAD(groups(theirs, decay), momentum=momentum, eps=1e-6), theirs, gradients)
    run(ours.MADGRAD(groups(weights, decay), momentum=momentum, eps=1e-6), weights, gradients)
    for weight, expected in zip(weights, theirs, strict=True):
        torch.testing.assert_close(weight, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_resumed_it_goes_on_to_the_bit(way, momentum):
    weights, gradients = problem()
    whole = [torch.nn.Parameter(weight.detach().clone()) for weight in weights]
    run(ours.MADGRAD(groups(whole, 0.01), momentum=momentum), whole, gradients)
    first = ours.MADGRAD(groups(weights, 0.01), momentum=momentum)
    run(first, weights, gradients[:77])
    saved = copy.deepcopy(first.state_dict())
    second = ours.MADGRAD(groups(weights, 0.01), momentum=momentum)
    second.load_state_dict(saved)
    run(second, weights, gradients[77:], first=77)
    assert all(torch.equal(one, other) for one, other in zip(weights, whole, strict=True))


def test_a_closure_is_called_with_gradients_on():
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = ours.MADGRAD([weight])

    def closure():
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 3
    assert optimizer.step(closure).item() < 3


def test_the_step_never_waits_for_a_device(monkeypatch):
    def fail(self):
        raise AssertionError("item() waits")

    weights, gradients = problem()
    monkeypatch.setattr(torch.Tensor, "item", fail)
    run(ours.MADGRAD(groups(weights, 0.01)), weights, gradients[:3])


@pytest.mark.parametrize("wrong", [{"lr": -1}, {"momentum": 1.0}, {"weight_decay": -1}, {"eps": 0}])
def test_what_it_cannot_step_with_is_refused(wrong):
    with pytest.raises(ValueError, match="cannot step with"):
        ours.MADGRAD([torch.nn.Parameter(torch.ones(1))], **wrong)


@pytest.mark.parametrize("clipped", [True, False])
@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_under_a_gradient_scaler_overflows_are_skipped_on_the_device(clipped, momentum, monkeypatch):
    """As by a scaler that reads whether there was one; ``clipped``: it unscales the gradients before."""
    results = []
    for read in (True, False):
        monkeypatch.setattr(ours.MADGRAD, "_step_supports_amp_scaling", not read)
        weights, gradients = problem()
        optimizer = ours.MADGRAD(groups(weights, decay=1e-2), momentum=momentum)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=7)
        for step, row in enumerate(gradients[:60]):
            for weight, gradient in zip(weights, row, strict=True):
                weight.grad = scaler.scale(gradient)
            if step % 9 == 0:  # the first step, too
                weights[step % 4].grad.view(-1)[0] = float("nan" if step % 2 else "inf")
            if clipped:
                scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
        results.append((weights, scaler.get_scale(), float(optimizer.param_groups[0]["k"])))
    (expected, *rest), (weights, *others) = results
    assert others == rest
    assert rest[-1] == 60 - 7
    for weight, one in zip(weights, expected, strict=True):
        torch.testing.assert_close(weight, one, atol=1e-6, rtol=1e-6)
