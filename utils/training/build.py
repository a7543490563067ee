"""Building a model: a pretrained encoder with the task's fresh head on it."""

import contextlib
from collections.abc import Iterator

from transformers import PreTrainedTokenizerBase

from utils.config import Config, InputError
from utils.machine.encoders import load_tokenizer, load_weights, read_encoder_config
from utils.modeling.encoders import longest_text, reinitialize, set_dropout
from utils.modeling.model import TextModel, TextModelConfig
from utils.tasks import Task, make_task


def build_model(config: Config, task: Task | None = None) -> tuple[TextModel, PreTrainedTokenizerBase]:
    """A TextModel with a pretrained encoder and a fresh head, and its tokenizer.

    Args:
        task: fitted to the training rows; None: one that has seen none, for looking at the model alone.

    Raises InputError for an encoder that cannot be found, that lacks its weights or tokenizer, or that reads
    fewer tokens than ``max_length``.
    """
    task = task or make_task(config)
    encoder_config = read_encoder_config(config.encoder)
    if config.encoder_dropout >= 0:
        set_dropout(encoder_config, config.encoder_dropout)
    tokenizer = load_tokenizer(config.encoder, config.max_length)
    longest = longest_text(encoder_config)
    if longest and config.max_length > longest:
        raise InputError(
            f"max_length={config.max_length} is too long: {config.encoder!r} reads {longest} tokens."
        )
    with value_errors_as_input_errors():
        model = TextModel(
            TextModelConfig(
                encoder=encoder_config,
                pooling=config.pooling,
                layer_dropout=config.layer_dropout,
                head=task.head(),
                task=task.settings(),
            )
        )
        model.encoder.load_state_dict(load_weights(config.encoder, encoder_config))
        if config.reinit_layers:
            reinitialize(model.encoder, config.reinit_layers)
    return model, tokenizer


@contextlib.contextmanager
def value_errors_as_input_errors() -> Iterator[None]:
    """What the modules of ``modeling`` refuse, as a sentence for the user."""
    try:
        yield
    except InputError:
        raise
    except ValueError as error:
        raise InputError(str(error)) from None
