"""A probe before training: three short texts, so that what cannot work is said before anything is written."""

from collections.abc import Callable

import numpy as np
import torch
from accelerate.utils import send_to_device

from utils.config import InputError
from utils.data.tokens import Batch, Examples, make_loader
from utils.machine import runtime
from utils.machine.files import short_reason
from utils.machine.precision import Native
from utils.modeling.model import TextModel, TextModelOutput
from utils.modeling.token_states import text_vectors
from utils.training.setup import Training

Model = Callable[[Training, Batch], TextModelOutput]


def probe(training: Training) -> None:
    """Run a text of ``max_length`` tokens and a short one through the model; nothing is changed by it.

    Raises InputError for an encoder that cannot compute in the chosen precision or at this length, that
    reads a text differently beside a longer one, or whose pooled vector does not see the text.
    """
    states = runtime.random_states(training.backend.device)
    try:
        examples = probe_examples(training)
        _check_computes(training, examples)
        _check_reads(training, examples)
    except torch.OutOfMemoryError:
        pass  # training takes smaller parts then
    finally:
        runtime.restore_random_states(states, training.backend.device)


def probe_examples(training: Training) -> Examples:
    """A text of ``max_length`` tokens, the first quarter of it, and this quarter with other words inside.

    Both are made of the tokens of the longest training text, whatever the task.
    """
    source, length = training.train, training.config.max_length
    long = source.slice(int(np.argmax(source.lengths)))
    tokens = np.arange(long.start, long.stop)
    inside = tokens[1:-1] if len(tokens) > 2 else tokens
    stretched = np.concatenate([tokens[:1], np.resize(inside, length - 2), tokens[-1:]])
    short = stretched[: max(length // 4, 4)]
    other = np.concatenate([short[:1], np.full(len(short) - 2, short[1]), short[-1:]])
    taken = np.concatenate([stretched, short, other])
    return Examples(
        ids=["long", "short", "other"],
        tokens={name: values[taken] for name, values in source.tokens.items()},
        ends=np.cumsum([len(stretched), len(short), len(other)]),
        targets=source.targets[[0, 0, 0]],
        row=np.arange(3),
        extras={name: values[taken] for name, values in source.extras.items()},
    )


def _check_computes(training: Training, examples: Examples) -> None:
    """Forward and backward in the chosen precision, as far as that leaves no trace."""
    batch = _batch(training, examples, [0, 1])
    training.wrapped.eval()
    # Apex's loss scaling would remember a backward pass.
    with torch.set_grad_enabled(isinstance(training.backend, Native)):
        try:
            outputs = _as_chosen(training, batch)["logits"].float()
            if outputs.requires_grad:
                weights = [weight for weight in training.model.parameters() if weight.requires_grad]
                torch.autograd.grad(outputs.sum(), weights, allow_unused=True)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever an architecture raises for what it cannot do
            raise InputError(_cause(training, examples, short_reason(error))) from None
    if not outputs.isfinite().all():
        raise InputError(_cause(training, examples, "its outputs are not finite"))


def _check_reads(training: Training, examples: Examples) -> None:
    """Whether a text's pooled vector is its own, and depends on more than the token that is pooled."""
    together = _pooled(training, examples, [0, 1])[1]
    alone, other = (_pooled(training, examples, [number])[0] for number in (1, 2))
    config, difference = training.config, (other - alone).norm()
    ids = examples.tokens["input_ids"]
    changed = (ids[examples.slice(1)] != ids[examples.slice(2)]).any()
    if changed and difference <= 1e-6 * alone.norm():
        raise InputError(
            f"encoder={config.encoder!r}: pooling={config.pooling!r} takes a token that does not see the "
            "text (this encoder reads from left to right, or its attention does not work here); set "
            'pooling="last", "mean_layers" or "attention".'
        )
    # Measured against what sets two texts apart: in 50 architectures rounding comes to at most 2e-7 of it in
    # float32, and reading the padding to 3e-4 and more. Apex computes in float16.
    tolerance = 1e-4 if isinstance(training.backend, Native) else 0.5
    if changed and (together - alone).norm() > tolerance * difference:
        raise InputError(
            f"encoder={config.encoder!r}: what a {training.model.encoder.config.model_type} encoder makes of "
            "a text depends on the other texts in its batch, or on chance, so that no score could be "
            "repeated; choose another encoder."
        )


@torch.no_grad()
def _pooled(training: Training, examples: Examples, numbers: list[int]) -> torch.Tensor:
    batch = _batch(training, examples, numbers)
    return text_vectors(_in_float32(training, batch)["pooled"].float(), batch.inputs["attention_mask"])


def _batch(training: Training, examples: Examples, numbers: list[int]) -> Batch:
    batch = next(iter(make_loader(examples, [numbers], training.tokenizer)))
    return send_to_device(batch, training.backend.device)


def _as_chosen(training: Training, batch: Batch) -> TextModelOutput:
    """The model as it is trained, but not compiled: that would take longer than the probe is worth."""
    return training.wrapped.forward(**batch.inputs, extras=batch.extras)


def _in_float32(training: Training, batch: Batch) -> TextModelOutput:
    """The model past Accelerate's wrapper, which replaces ``forward`` of the object alone."""
    with torch.autocast(training.backend.device.type, enabled=False):
        return TextModel.forward(training.model, **batch.inputs, extras=batch.extras)


def _cause(training: Training, examples: Examples, reason: str) -> str:
    """What would work instead, found by trying."""
    config, precision = training.config, training.choice.name
    encoder = f"encoder={config.encoder!r}"
    if precision != "fp32" and _works(_in_float32, training, examples, [0, 1]):
        return f"{encoder} cannot compute in {precision} ({reason}); set precision=fp32."
    if _works(_as_chosen, training, examples, [1]):
        return f"{encoder} cannot read max_length={config.max_length} tokens ({reason}); lower max_length."
    return (
        f"{encoder} with pooling={config.pooling!r} cannot be trained ({reason}); choose another pooling or "
        "encoder."
    )


@torch.no_grad()
def _works(model: Model, training: Training, examples: Examples, numbers: list[int]) -> bool:
    try:
        return bool(model(training, _batch(training, examples, numbers))["logits"].isfinite().all())
    except Exception:  # the caller has a first one to report
        return False
