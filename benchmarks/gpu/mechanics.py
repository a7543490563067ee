"""The mechanics of a step on this device against written-out references: optimizers, loss scale, memory."""

import contextlib
from collections.abc import Callable, Iterator

import torch

from benchmarks.gpu.record import Check, Skip
from utils.config import Config
from utils.data import tokens
from utils.machine import runtime
from utils.modeling.model import TextModel
from utils.tasks import add_folds, load_table
from utils.training.loop import add_gradients, train_epoch
from utils.training.madgrad import MADGRAD
from utils.training.memory import retry_in_smaller_parts
from utils.training.setup import Training, prepare

SHAPES = ((300, 384), (384,), (1, 384))
STEPS, LR, DECAY, EPS = 20, 1e-3, 0.01, 1e-6


def prepare_fold(**chosen) -> Training:
    """Everything to train a fold of the sample with."""
    config = Config.make(**chosen)
    return prepare(config, add_folds(load_table(config), config), config.fold)


# --- optimizers --------------------------------------------------------------------------------------------


def madgrad_reference(x: torch.Tensor, gradients: list[torch.Tensor], momentum: float) -> torch.Tensor:
    """The weights after one step per gradient, by the formulas of arXiv:2101.11075."""
    x0, s, v = x.clone(), torch.zeros_like(x), torch.zeros_like(x)
    for k, gradient in enumerate(gradients):
        g, rate = gradient + DECAY * x, (LR + EPS) * (k + 1) ** 0.5
        s, v = s + rate * g, v + rate * g**2
        z = x0 - s / (v ** (1 / 3) + EPS)
        x = momentum * x + (1 - momentum) * z
    return x


def adamw_reference(x: torch.Tensor, gradients: list[torch.Tensor]) -> torch.Tensor:
    """The weights after one step per gradient, by the formulas of arXiv:1711.05101."""
    m, v, beta1, beta2 = torch.zeros_like(x), torch.zeros_like(x), 0.9, 0.999
    for k, g in enumerate(gradients, start=1):
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
        x = x - LR * DECAY * x
        x = x - LR * (m / (1 - beta1**k)) / ((v / (1 - beta2**k)) ** 0.5 + EPS)
    return x


OPTIMIZERS: dict[str, tuple[Callable, Callable]] = {
    "MADGRAD": (
        lambda weights: MADGRAD(weights, lr=LR, momentum=0.9, weight_decay=DECAY, eps=EPS),
        lambda x, gradients: madgrad_reference(x, gradients, 0.9),
    ),
    "MADGRAD without momentum": (
        lambda weights: MADGRAD(weights, lr=LR, momentum=0.0, weight_decay=DECAY, eps=EPS),
        lambda x, gradients: madgrad_reference(x, gradients, 0.0),
    ),
    "AdamW, fused": (
        lambda weights: torch.optim.AdamW(weights, lr=LR, weight_decay=DECAY, eps=EPS, fused=True),
        adamw_reference,
    ),
}


def check_optimizer(name: str) -> list[Check]:
    """How far 20 steps here move the weights, against the formula in float64 on the CPU."""
    make, reference = OPTIMIZERS[name]
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(shape, generator=generator) * 0.1 for shape in SHAPES]
    gradients = [[torch.randn(shape, generator=generator) * 0.01 for shape in SHAPES] for _ in range(STEPS)]
    weights = [x.to(runtime.device()).requires_grad_() for x in map(torch.clone, start)]
    optimizer = make(weights)
    for step in gradients:
        for weight, gradient in zip(weights, step, strict=True):
            weight.grad = gradient.to(weight.device)
        optimizer.step()
    worst = 0.0
    for i, weight in enumerate(weights):
        expected = reference(start[i].double(), [step[i].double() for step in gradients]) - start[i]
        moved = weight.detach().cpu().double() - start[i]
        worst = max(worst, float((moved - expected).norm() / expected.norm()))
    return [Check("relative error of what 20 steps changed", worst, 1e-4)]


# --- loss scaling ------------------------------------------------------------------------------------------


def check_overflow() -> list[Check]:
    """fp16 at a loss scale that makes gradients overflow: the step is skipped, the scale halved."""
    if runtime.device().type != "cuda":
        raise Skip("fp16 needs a CUDA GPU")
    training = prepare_fold(preset="tiny", precision="fp16")
    before = [weight.detach().clone() for weight in training.model.parameters()]
    scale, steps = 2.0**100, train_epoch(training, 0)
    training.backend.load_state_dict(training.backend.state_dict() | {"scale": scale})
    next(steps)
    skipped = moved(training, before)
    halved = training.backend.loss_scale() / scale
    training.backend.load_state_dict(training.backend.state_dict() | {"scale": 2.0**10})
    next(steps)
    return [
        Check("largest change of a weight in a step that overflows", skipped, 0.0),
        Check("factor by which that changes the loss scale", halved, 0.5),
        Check("weights left unmoved by the next step", float(moved(training, before) == 0), 0.0),
    ]


def moved(training: Training, before: list[torch.Tensor]) -> float:
    """The largest change of a weight since ``before``."""
    pairs = zip(training.model.parameters(), before, strict=True)
    return max(float((weight.detach() - old).abs().max()) for weight, old in pairs)


# --- memory ------------------------------------------------------------------------------------------------


def check_memory(**chosen) -> list[Check]:
    """The gradient of a batch that memory does not hold, taken in two halves, against that in one piece."""
    training = prepare_fold(**chosen, precision="fp32")
    batch = next(iter(tokens.make_loader(training.train, training.batches(0), training.tokenizer)))
    add_gradients(training, [batch])  # allocates what stays, such as cuBLAS's workspace
    training.optimizer.zero_grad()
    before, peak = memory_of(lambda: add_gradients(training, [batch]))
    whole = gradients_of(training)
    training.optimizer.zero_grad()
    with short_of_memory(len(batch.targets), before + 0.75 * (peak - before)):
        retry_in_smaller_parts(training, [batch], add_gradients)
    split = gradients_of(training)
    difference = float((split - whole).norm() / whole.norm())
    return [
        Check("relative difference from the gradient in one piece", difference, 1e-5),
        Check("parts more than two", abs(training.parts - 2), 0),
    ]


def gradients_of(training: Training) -> torch.Tensor:
    """All gradients, one after the other, float64 on the CPU."""
    gradients = [weight.grad for weight in training.model.parameters() if weight.grad is not None]
    return torch.cat([gradient.detach().flatten().cpu().double() for gradient in gradients])


def memory_of(call: Callable[[], object]) -> tuple[float, float]:
    """Bytes in use on the GPU before ``call``, and at most during it; without a GPU 0."""
    if not torch.cuda.is_available():
        call()
        return 0.0, 0.0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    return before, torch.cuda.max_memory_allocated()


@contextlib.contextmanager
def short_of_memory(rows: int, limit: float) -> Iterator[None]:
    """On a GPU, ``limit`` bytes and no more. On a CPU, a model that fails on more than half the rows."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(limit / total)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        return
    forward = TextModel.forward

    def limited(model, **inputs):
        if len(inputs["input_ids"]) > -(-rows // 2):
            raise torch.OutOfMemoryError("a stand-in for a full GPU")
        return forward(model, **inputs)

    TextModel.forward = limited  # type: ignore[method-assign]
    try:
        yield
    finally:
        TextModel.forward = forward  # type: ignore[method-assign]
