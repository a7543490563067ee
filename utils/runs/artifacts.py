"""A fold's folder: where it lies, what is written there, and reading it again.

output/<run>/fold-<k>/
  run.json          the Config, versions, device, precision, the data's fingerprint
  history.csv       a row per evaluation
  result.json       the scores of last, best and averaged weights
  predictions.csv   held-out targets and predictions
  samples.jsonl     a few of them as training went on
  last/ best/ averaged/   weights as Hugging Face folders, each sealed
  snapshots/        weights that went into the average, on request
  manifest.json     the sha256 of all these files: the seal of a finished fold
  state/            what resuming needs; removed when the fold is finished
"""

import json
import os
from pathlib import Path

import pandas as pd
import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from utils.config import Config, InputError
from utils.machine import runtime
from utils.machine.files import atomic_file, atomic_folder, short_reason, write_json
from utils.modeling.model import TextModel, TextModelConfig
from utils.runs import checkpoint
from utils.runs.portable import read_model, to_save, with_names, write_code
from utils.runs.seal import MANIFEST, RETRAIN, WAY_OUT, read_json, seal, verify

WEIGHTS = ("last", "best", "averaged")
SAMPLES = "samples.jsonl"
_NO_SEAL = f"has no {MANIFEST}: it was lost, or was trained by an earlier version of this suite; {RETRAIN}"


def fold_folder(config: Config, fold: int | None = None) -> Path:
    """``output/<run>/fold-<k>``, under the workspace unless ``output_dir`` is absolute.

    Raises InputError for a path that is too long for the files of a fold, or is not UTF-8.
    """
    fold = config.fold if fold is None else fold
    folder = runtime.workspace() / config.output_dir / config.run_name / f"fold-{fold}"
    try:
        lengths = [len(part.encode()) for part in folder.parts]
    except UnicodeEncodeError:
        raise InputError(f"{str(folder)!a} is not UTF-8; set another run or output_dir.") from None
    if max(lengths) > 255 or sum(lengths) + len(lengths) > 3996:  # 100 bytes less than Linux allows
        raise InputError(f"{str(folder)!r} is too long a path; set a shorter run or output_dir.")
    return folder


def is_fold(folder: Path) -> bool:
    """Whether a training has begun here, by this version or an earlier one."""
    return any((folder / name).exists() for name in ("run.json", MANIFEST, "state", "result.json"))


def is_finished(folder: Path) -> bool:
    """Whether a fold has been trained to its end, and not merely to a time limit.

    Raises InputError for one that is finished and has no seal.
    """
    if (folder / MANIFEST).is_file():
        return True
    if checkpoint.latest(folder / "state") or not (folder / "result.json").is_file():
        return False
    if read_result(folder).get("finished", True):
        raise InputError(f"{runtime.display_path(folder)} {_NO_SEAL}")
    return False


# --- writing -----------------------------------------------------------------------------------------------


def start_fold(folder: Path, metadata: dict) -> None:
    """Replace ``folder`` by an empty one with a run.json that says what is being trained."""
    with atomic_folder(folder) as new:
        write_json(new / "run.json", metadata)


def seal_fold(folder: Path) -> None:
    """Seal what a finished fold consists of; whatever else lies there, such as pictures, is left out."""
    parts = [path for name in (*WEIGHTS, "snapshots") for path in (folder / name).rglob("*")]
    names = ("run.json", "history.csv", "predictions.csv", SAMPLES, "result.json")
    files = [folder / name for name in names]
    seal(folder, [path.relative_to(folder).as_posix() for path in [*files, *parts] if path.is_file()])


def save_model(
    config: TextModelConfig,
    weights: dict[str, torch.Tensor],
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
) -> None:
    """Write ``weights`` (a TextModel's state dict, in float32) and the tokenizer as a Hugging Face folder.
    It has the model's code, with which transformers can read it elsewhere.

    Raises InputError if the model that is loaded from it has other weights. One that replaces another of the
    same training is not loaded: what decides it is the encoder.
    """
    replaces = folder.exists()
    weights = {name: value.detach().float() for name, value in weights.items()}
    config = with_names(config)
    shell, weights = to_save(config, weights)
    with atomic_folder(folder) as new:
        shell.save_pretrained(new)
        tokenizer.save_pretrained(new)
        write_code(config, new)
        if not replaces:
            with torch.random.fork_rng(devices=[]):  # what is drawn here must change nothing in a training
                check_weights(read_model(new).state_dict(), weights, runtime.display_path(folder))
        seal(new)


def save_encoder(folder: Path | str, path: Path | str) -> None:
    """Write the encoder alone of a folder of weights, with its tokenizer, for ``AutoModel`` or ``encoder``.

    Raises InputError where something lies at ``path`` already, or nothing can be written there.
    """
    model, tokenizer = load_model(folder)
    path = Path(path)
    if path.exists():
        raise InputError(f"{runtime.display_path(path)} exists already; name a new folder.")
    try:
        with atomic_folder(path) as new:
            model.encoder.save_pretrained(new)
            tokenizer.save_pretrained(new)
    except OSError as error:
        raise InputError(
            f"{runtime.display_path(path)} cannot be written ({short_reason(error)}); name another folder."
        ) from None


def check_weights(loaded: dict[str, torch.Tensor], saved: dict[str, torch.Tensor], where: str) -> None:
    """Raise InputError, naming the first, if a loaded model's weights are not those that were saved."""
    for name in sorted(set(loaded) | set(saved)):
        both = name in loaded and name in saved
        if not both or not torch.equal(loaded[name].float(), saved[name].cpu()):
            raise InputError(
                f"{where} cannot be written: {name} is not loaded again as it was saved, with this encoder "
                f"and transformers {transformers.__version__}; choose another encoder."
            )


def write_weights(path: Path, weights: dict[str, torch.Tensor]) -> None:
    """A state dict, in float32, as safetensors."""
    with atomic_file(path) as temporary:
        save_file(checkpoint.apart({name: value.float() for name, value in weights.items()}), temporary)


# --- reading -----------------------------------------------------------------------------------------------


def load_model(folder: Path | str, **options) -> tuple[TextModel, PreTrainedTokenizerBase]:
    """The model of a folder of weights, in eval mode, and its tokenizer. No code of the folder runs.

    Args:
        folder: such as ``output/<run>/fold-<k>/averaged``, or a copy of it.
        options: for ``from_pretrained``, such as ``attn_implementation="eager"``.

    Raises InputError for a folder that holds no model of this suite, or other files than were saved.
    """
    folder = Path(folder)
    sealed = verify(folder)["files"] if os.path.isfile(folder / MANIFEST) else {}
    if "model.safetensors" not in sealed:
        raise InputError(_why_no_model(folder))
    fold = folder.resolve().parent
    if (fold / "run.json").is_file() and is_finished(fold):
        verify(fold, within=f"{folder.resolve().name}/")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        return read_model(folder, **options), tokenizer
    except Exception as error:  # transformers, safetensors and tokenizers raise a dozen kinds
        raise InputError(
            f"{runtime.display_path(folder)} is whole, and cannot be loaded here ({short_reason(error)}); "
            "install the versions in the run.json of its fold."
        ) from None


def _why_no_model(folder: Path) -> str:
    where = runtime.display_path(folder)
    if not os.path.isfile(folder / "model.safetensors"):
        return f"{where} holds no model; name a folder of weights, or train that fold with notebook 02."
    model_type = read_json(folder / "config.json").get("model_type")
    if model_type in (TextModelConfig.model_type, "text_regressor"):
        return f"{where} {_NO_SEAL}"
    return f"{where} holds a {model_type} model, not one of this suite's; name a fold's weights."


def weights_folder(folder: Path, weights: str) -> Path:
    """Where a fold's "last", "best" or "averaged" weights lie, or InputError."""
    if weights not in WEIGHTS:
        raise InputError(f"weights {weights!r} are not known; choose one of: {', '.join(WEIGHTS)}.")
    path = Path(folder) / weights
    if not (path / "model.safetensors").is_file():
        others = [name for name in WEIGHTS if (Path(folder) / name / "model.safetensors").is_file()]
        if others:
            where = runtime.display_path(Path(folder))
            raise InputError(f"{where} has no {weights} weights; choose {' or '.join(others)}.")
        raise InputError(
            f"{runtime.display_path(path)} holds no model; train that fold first with notebook 02."
        )
    return path


def read_result(folder: Path) -> dict:
    """The result.json of a fold that has been trained."""
    if not any((Path(folder) / name).exists() for name in ("result.json", MANIFEST)):
        raise InputError(
            f"{runtime.display_path(folder)} holds no finished fold; train it first with notebook 02."
        )
    return _read(Path(folder), "result.json", "scores", "metric")


def read_metadata(folder: Path) -> dict:
    """A fold's run.json: the Config it was trained with, and on what."""
    return _read(Path(folder), "run.json", "config", "precision", "data")


def _read(folder: Path, name: str, *parts: str) -> dict:
    """A JSON file of a fold, with these objects in it; in a finished fold, proven to be the one sealed."""
    if (folder / MANIFEST).is_file():
        verify(folder, within=name)
    content = read_json(folder / name)
    if not all(isinstance(content.get(part), dict) for part in parts):
        raise InputError(f"{runtime.display_path(folder / name)} is damaged; {WAY_OUT}")
    return content


def read_predictions(folder: Path) -> pd.DataFrame:
    """A finished fold's predictions.csv, ids as strings whatever they look like; an empty cell is NaN."""
    folder = Path(folder)
    if (folder / MANIFEST).is_file():
        verify(folder, within="predictions.csv")
    options = {"dtype": {"id": str}, "keep_default_na": False, "na_values": [""]}
    return pd.read_csv(folder / "predictions.csv", float_precision="round_trip", **options)


def read_samples(folder: Path) -> pd.DataFrame:
    """A fold's samples.jsonl: a row per sample and step; empty where none were asked for."""
    path = Path(folder) / SAMPLES
    if (folder / MANIFEST).is_file():
        verify(folder, within=SAMPLES)
    lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    return pd.DataFrame([json.loads(line) for line in lines if line.endswith(b"\n")])  # one may be cut short
