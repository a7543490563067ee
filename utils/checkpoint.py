"""What a fold leaves behind: weights as Hugging Face folders, tables and JSON, each written whole or not at all."""

import json
import os
import shutil
import tempfile
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from utils import runtime
from utils.config import Config, InputError
from utils.model import TextRegressor, TextRegressorConfig

KINDS = ("last", "best", "swa")


def fold_folder(config: Config, fold: int | None = None) -> Path:
    """``output/<run>/fold-<k>``, under the workspace unless ``output_dir`` is absolute."""
    return runtime.workspace() / config.output_dir / config.run_name / f"fold-{config.fold if fold is None else fold}"


def start_fold(folder: Path, about: dict) -> None:
    """Make an empty ``folder`` with a config.json that tells what is being trained; what was there is removed."""
    try:
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        write_json(folder / "config.json", about)
    except OSError as error:
        raise InputError(f"{runtime.shown(folder)} cannot be written ({error.strerror}); set output_dir.") from None


def save_model(
    config: TextRegressorConfig, weights: dict[str, torch.Tensor], tokenizer: PreTrainedTokenizerBase, folder: Path
) -> None:
    """Write ``weights`` (a TextRegressor's state dict, in float32) and the tokenizer as a Hugging Face folder."""
    with torch.device("meta"):
        shell = TextRegressor(config)
    # Apart from the model being trained, which may be wrapped, patched or in float16; assigning copies nothing.
    shell.load_state_dict({name: value.detach().float() for name, value in weights.items()}, assign=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        whole = Path(temporary) / "new"
        shell.save_pretrained(whole)
        tokenizer.save_pretrained(whole)
        if folder.exists():
            os.replace(folder, Path(temporary) / "old")
        os.replace(whole, folder)


def write_weights(path: Path, weights: dict[str, torch.Tensor]) -> None:
    """A state dict, in float32, as safetensors."""
    temporary = path.with_name(f".{path.name}.part")
    save_file({name: value.detach().float().cpu().clone() for name, value in weights.items()}, temporary)
    os.replace(temporary, path)


def load_model(folder: Path, kind: str = "swa", **options) -> tuple[TextRegressor, PreTrainedTokenizerBase]:
    """The trained model of a fold, head included, in eval mode, and its tokenizer.

    Args:
        folder: ``output/<run>/fold-<k>``.
        kind: "last", "best" or "swa" (averaged).
        options: for ``from_pretrained``, such as ``attn_implementation="eager"``.
    """
    source = weights_file(folder, kind).parent
    model = TextRegressor.from_pretrained(source, use_safetensors=True, dtype=torch.float32, **options)
    return model.eval(), AutoTokenizer.from_pretrained(source)


def weights_file(folder: Path, kind: str) -> Path:
    """Where a fold's weights of a kind lie, or InputError."""
    if kind not in KINDS:
        raise InputError(f"weights {kind!r} are not known; choose one of: {', '.join(KINDS)}.")
    path = Path(folder) / kind / "model.safetensors"
    if not path.is_file():
        raise InputError(f"{runtime.shown(path.parent)} holds no model; train that fold first with notebook 02.")
    return path


def read_result(folder: Path) -> dict:
    """The result.json of a fold that has been trained."""
    try:
        return json.loads((Path(folder) / "result.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{runtime.shown(folder)} holds no finished fold; train it first with notebook 02.") from None
    except ValueError:
        raise InputError(f"{runtime.shown(Path(folder) / 'result.json')} is damaged; train that fold again.") from None


def read_about(folder: Path) -> dict:
    """A fold's config.json: the Config it was trained with, and on what."""
    try:
        return json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputError(f"{runtime.shown(folder)} has no readable config.json; train that fold again.") from None


def is_finished(folder: Path) -> bool:
    """Whether a fold has been trained to its end, and not merely to a time limit."""
    return (folder / "result.json").is_file() and read_result(folder).get("finished", True)


def read_predictions(folder: Path) -> pd.DataFrame:
    """A finished fold's predictions.csv, ids as strings whatever they look like."""
    return pd.read_csv(Path(folder) / "predictions.csv", dtype={"id": str}, keep_default_na=False)


def write_json(path: Path, content: dict) -> None:
    """JSON, with NaN as null."""
    clean = json.loads(json.dumps(content, default=str), parse_constant=lambda name: None)
    _write(path, json.dumps(clean, indent=2) + "\n")


def write_table(path: Path, table: pd.DataFrame) -> None:
    """A CSV with full precision."""
    _write(path, table.to_csv(index=False))


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.part")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
