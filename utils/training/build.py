"""Building a model: a pretrained encoder with the task's fresh head on it."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from safetensors.torch import load_file
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from utils.config import Config, InputError
from utils.machine.encoders import load_tokenizer, load_weights, read_encoder_config, trained_folder
from utils.machine.files import short_reason
from utils.machine.runtime import display_path, say
from utils.modeling.encoders import longest_text, reinitialize, set_dropout
from utils.modeling.model import TextModel, TextModelConfig
from utils.modeling.native import NATIVE, check_native
from utils.modeling.pooling import POOLINGS
from utils.tasks import Task, make_task


def build_model(config: Config, task: Task | None = None) -> tuple[TextModel, PreTrainedTokenizerBase]:
    """A TextModel with a pretrained encoder and a fresh head, and its tokenizer.

    Args:
        task: fitted to the training rows; None: one that has seen none, for looking at the model alone.

    Where ``config.encoder`` is the folder of a trained fold, its head is kept if the outputs are the same.

    Raises InputError for an encoder that cannot be found, that lacks its weights or tokenizer, whose
    tokenizer does not fit it, or that reads fewer tokens than ``max_length``.
    """
    task = task or make_task(config)
    encoder_config = read_encoder_config(config.encoder)
    if config.encoder_dropout >= 0:
        set_dropout(encoder_config, config.encoder_dropout)
    tokenizer = load_tokenizer(config.encoder, config.max_length)
    if config.pooling == NATIVE:
        with value_errors_as_input_errors():
            check_native(encoder_config.model_type)
        if encoder_config.pad_token_id is None:  # or transformers' class could not read texts in batches
            encoder_config.pad_token_id = tokenizer.pad_token_id
    model = _fresh_model(config, encoder_config, task)
    _check_positions(model, config)
    weights = load_weights(config.encoder, encoder_config)
    pooler = {name: weights.pop(name) for name in [*weights] if name.startswith("pooler.")}
    model.encoder.load_state_dict(weights)
    if pooler and config.pooling == NATIVE:
        model.pooling.load_state_dict(pooler, strict=False)
    _check_vocabulary(model, tokenizer, config)
    if folder := trained_folder(config.encoder):
        _keep_head(model, folder)
    if config.reinit_layers:
        with value_errors_as_input_errors():
            reinitialize(model.encoder, config.reinit_layers)
    return model, tokenizer


def _fresh_model(config: Config, encoder_config: PreTrainedConfig, task: Task) -> TextModel:
    """A TextModel with random weights."""
    model_config = TextModelConfig(
        encoder=encoder_config,
        pooling=config.pooling,
        layer_dropout=config.layer_dropout,
        pooling_options={name: getattr(config, name) for name in POOLINGS[config.pooling].options},
        head=task.head(),
        task=task.settings(),
    )
    try:
        return TextModel(model_config)
    except Exception as error:  # a config may hold anything, and architectures check little of it
        raise InputError(
            f"encoder={config.encoder!r}: no {encoder_config.model_type} can be made from its config.json "
            f"({short_reason(error)}); get the file anew, or choose another encoder."
        ) from None


def _check_positions(model: TextModel, config: Config) -> None:
    longest = longest_text(model.encoder)
    if longest and config.max_length > longest:
        raise InputError(
            f"max_length={config.max_length} is too long: {config.encoder!r} reads {longest} tokens."
        )


def _check_vocabulary(model: TextModel, tokenizer: PreTrainedTokenizerBase, config: Config) -> None:
    """Raise InputError where the tokenizer gives ids that the encoder has no embedding for."""
    try:
        known = model.encoder.get_input_embeddings().num_embeddings
    except (NotImplementedError, AttributeError):
        return  # it embeds characters by hashing, say
    largest = max(tokenizer.get_vocab().values(), default=0)
    if largest >= known:
        raise InputError(
            f"encoder={config.encoder!r}: its tokenizer has ids up to {largest} (such as "
            f"{tokenizer.convert_ids_to_tokens(largest)!r}), its encoder embeddings for {known}; call "
            "model.resize_token_embeddings(len(tokenizer)) before saving the two."
        )


def _keep_head(model: TextModel, folder: Path) -> None:
    """Go on with the pooling and head of a trained fold where it answered the same question."""
    trained = TextModelConfig.from_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    own = {name: value.shape for name, value in model.state_dict().items()}
    same = (
        trained.head["outputs"] == list(model.head.config.outputs) and trained.pooling == model.config.pooling
    )
    if same and {name: value.shape for name, value in weights.items()} == own:
        model.load_state_dict(weights)
        model.config.head |= {name: trained.head[name] for name in ("location", "scale")}
        say(f"Goes on from the fold in {display_path(folder)}, with its pooling and head.")
    else:
        say(f"Goes on from the encoder in {display_path(folder)}; pooling and head are new.")


@contextlib.contextmanager
def value_errors_as_input_errors() -> Iterator[None]:
    """What the modules of ``modeling`` refuse, as a sentence for the user."""
    try:
        yield
    except InputError:
        raise
    except ValueError as error:
        raise InputError(str(error)) from None
