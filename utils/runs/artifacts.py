"""A fold's folder: where it lies, what is written there, and reading it again.

output/<run>/fold-<k>/
  run.json          the Config, versions, device, precision, the data's fingerprint
  history.csv       a row per evaluation
  result.json       the scores of last, best and averaged weights
  predictions.csv   held-out targets and predictions
  last/ best/ averaged/   weights as Hugging Face folders
  snapshots/        weights that went into the average, on request
  state/            what resuming needs; removed when the fold is finished
"""

import json
import shutil
from pathlib import Path

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from utils.config import Config, InputError
from utils.machine import runtime
from utils.machine.encoders import TOKENIZER_FILES
from utils.machine.files import atomic_file, atomic_folder, short_reason, write_json
from utils.modeling.model import TextModel, TextModelConfig

WEIGHTS = ("last", "best", "averaged")


def fold_folder(config: Config, fold: int | None = None) -> Path:
    """``output/<run>/fold-<k>``, under the workspace unless ``output_dir`` is absolute."""
    fold = config.fold if fold is None else fold
    return runtime.workspace() / config.output_dir / config.run_name / f"fold-{fold}"


def is_fold(folder: Path) -> bool:
    """Whether a training has begun here, by this version or an earlier one."""
    return (folder / "run.json").is_file() or (folder / "config.json").is_file()


# --- writing -----------------------------------------------------------------------------------------------


def start_fold(folder: Path, metadata: dict) -> None:
    """Make an empty ``folder`` with a run.json that says what is being trained; what was there is removed."""
    try:
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        write_json(folder / "run.json", metadata)
    except OSError as error:
        raise InputError(
            f"{runtime.display_path(folder)} cannot be written ({error.strerror}); set output_dir."
        ) from None


def save_model(
    config: TextModelConfig,
    weights: dict[str, torch.Tensor],
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
) -> None:
    """Write ``weights`` (a TextModel's state dict, in float32) and the tokenizer as a Hugging Face folder."""
    with torch.device("meta"):
        shell = TextModel(config)
    # Apart from the model being trained, which may be wrapped, patched or in float16; assigning copies
    # nothing.
    shell.load_state_dict({name: value.detach().float() for name, value in weights.items()}, assign=True)
    with atomic_folder(folder) as new:
        shell.save_pretrained(new)
        tokenizer.save_pretrained(new)


def write_weights(path: Path, weights: dict[str, torch.Tensor]) -> None:
    """A state dict, in float32, as safetensors."""
    with atomic_file(path) as temporary:
        save_file({name: value.detach().float().cpu().clone() for name, value in weights.items()}, temporary)


# --- reading -----------------------------------------------------------------------------------------------


def load_model(folder: Path | str, **options) -> tuple[TextModel, PreTrainedTokenizerBase]:
    """The model of a folder of weights, in eval mode, and its tokenizer. No code of the folder runs.

    Args:
        folder: such as ``output/<run>/fold-<k>/averaged``.
        options: for ``from_pretrained``, such as ``attn_implementation="eager"``.
    """
    folder = Path(folder)
    where = runtime.display_path(folder)
    if not (folder / "model.safetensors").is_file():
        raise InputError(
            f"{where} holds no model; name a folder of weights, or train that fold with notebook 02."
        )
    try:
        model_type = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError):
        raise InputError(f"{where} has no readable config.json; train that fold again.") from None
    if model_type == "text_regressor":
        raise InputError(f"{where} {_EARLIER_VERSION}")
    if model_type != TextModelConfig.model_type:
        raise InputError(
            f"{where} holds a {model_type} model, not one of this suite's; name a fold's weights."
        )
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):  # or every word would be unknown
        raise InputError(f"{where} has no tokenizer; copy the whole folder, or train that fold again.")
    try:
        model = TextModel.from_pretrained(folder, use_safetensors=True, dtype=torch.float32, **options)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise InputError(
            f"{where}: its weights cannot be loaded ({short_reason(error)}); copy the folder again, or train "
            "that fold again."
        ) from None
    return model.eval(), AutoTokenizer.from_pretrained(folder)


_EARLIER_VERSION = (
    "was trained by an earlier version of this suite, whose folders this one cannot read; "
    "train it again with retrain=True, or set run to train beside it."
)


def weights_folder(folder: Path, weights: str) -> Path:
    """Where a fold's "last", "best" or "averaged" weights lie, or InputError."""
    if weights not in WEIGHTS:
        raise InputError(f"weights {weights!r} are not known; choose one of: {', '.join(WEIGHTS)}.")
    path = Path(folder) / weights
    if not (path / "model.safetensors").is_file():
        raise InputError(
            f"{runtime.display_path(path)} holds no model; train that fold first with notebook 02."
        )
    return path


def read_result(folder: Path) -> dict:
    """The result.json of a fold that has been trained."""
    path = Path(folder) / "result.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{runtime.display_path(folder)} holds no finished fold; train it first with notebook 02."
        ) from None
    except ValueError:
        raise InputError(f"{runtime.display_path(path)} is damaged; train that fold again.") from None


def read_metadata(folder: Path) -> dict:
    """A fold's run.json: the Config it was trained with, and on what."""
    folder = Path(folder)
    try:
        return json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        where = runtime.display_path(folder)
        if not (folder / "run.json").exists() and (folder / "config.json").exists():
            raise InputError(f"{where} {_EARLIER_VERSION}") from None
        raise InputError(f"{where} has no readable run.json; train that fold again.") from None


def is_finished(folder: Path) -> bool:
    """Whether a fold has been trained to its end, and not merely to a time limit."""
    return (folder / "result.json").is_file() and read_result(folder).get("finished", True)


def read_predictions(folder: Path) -> pd.DataFrame:
    """A finished fold's predictions.csv, ids as strings whatever they look like; an empty cell is NaN."""
    options = {"dtype": {"id": str}, "keep_default_na": False, "na_values": [""]}
    return pd.read_csv(Path(folder) / "predictions.csv", **options)
