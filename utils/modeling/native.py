"""An architecture's own classification head, as AutoModelForSequenceClassification has it.

What that class has between its encoder and its last linear layer is a pooling here, and that layer is the
head's, so that all that works with a TextModel works with these. Their folders hold transformers' own class.
"""

import copy
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

from .model import TextModelConfig
from .pooling import Pooling, States

NATIVE = "native"
#: Where a whole model's config keeps what a TextModelConfig has beside the encoder's.
OURS = "text_model"


class Replay:
    """Stands where a whole model had its encoder, and returns what the encoder has computed already."""

    outputs: BaseModelOutputWithPoolingAndCrossAttentions | None = None

    def __call__(self, *args, **kwargs):
        return self.outputs


class NativePooling(Pooling):
    """What the architecture's own classifier makes of the last layer, up to its last linear layer."""

    name = NATIVE
    is_linear = False

    def __init__(self, whole: PreTrainedModel, n_layers: int):
        last = whole.get_submodule(last_linear(whole))
        super().__init__(last.in_features, n_layers)
        self.head_changes = {"norm": False, "dropout": 0.0}  # a linear layer alone
        if last.bias is None:
            self.head_changes |= {"bias": False, "location": None, "scale": None}
        self.pooler = getattr(whole.base_model, "pooler", None)
        whole.set_submodule(last_linear(whole), nn.Identity())
        text = whole.config.get_text_config()
        text.pad_token_id = text.pad_token_id or 0
        self.pad = text.pad_token_id
        self.replay = Replay()
        del whole._modules[whole.base_model_prefix]
        whole.__dict__[whole.base_model_prefix] = self.replay  # no module: it has no weights
        self.whole = whole

    @classmethod
    def build(cls, config: TextModelConfig) -> "NativePooling":
        pooling = cls(whole_model(config), config.encoder.num_hidden_layers + 1)
        if config.head.get("shared") and not pooling.head_changes.get("bias", True):
            raise ValueError("pooling=native: this architecture's head has no bias, which the loss needs.")
        return pooling

    def forward(self, states: States, mask: torch.Tensor) -> torch.Tensor:
        last = states[-1]
        pooled = None if self.pooler is None else self.pooler(last)
        self.replay.outputs = BaseModelOutputWithPoolingAndCrossAttentions(
            last_hidden_state=last, pooler_output=pooled
        )
        ids = self.pad + (mask > 0).long()  # only which of them are padding counts
        try:
            return self.whole(input_ids=ids, attention_mask=mask, return_dict=True).logits
        finally:
            self.replay.outputs = None

    def weights(self, states: States, mask: torch.Tensor) -> torch.Tensor:
        """By the size of each token's gradient, since architectures do not tell what they read."""
        with torch.enable_grad():
            last = states[-1].detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self((last,), mask).sum(), last)
        shares = gradient.float().norm(dim=-1) * mask
        return self._in_last_layer(shares / shares.sum(dim=1, keepdim=True))


def check_native(model_type: str) -> None:
    """Raise ValueError for an architecture that transformers has no classifier of."""
    known = {config.model_type for config in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING}
    if model_type not in known:
        raise ValueError(f"pooling=native: transformers has no {model_type} classifier; leave it out.")


def whole_model(config: TextModelConfig) -> PreTrainedModel:
    """transformers' own class for a TextModelConfig, with random weights."""
    check_native(config.encoder.model_type)
    encoder = copy.deepcopy(config.encoder)
    encoder.num_labels = len(config.head["outputs"])
    return AutoModelForSequenceClassification.from_config(encoder)


def last_linear(whole: PreTrainedModel) -> str:
    """The name of the layer that gives the outputs."""
    inside, n_outputs = f"{whole.base_model_prefix}.", whole.config.num_labels
    names = [
        name
        for name, module in whole.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == n_outputs and not name.startswith(inside)
    ]
    if not names:
        raise ValueError(f"pooling=native: a {whole.config.model_type} classifier has no last linear layer.")
    return names[-1]


# --- the folder of transformers' own class ------------------------------------------------------------------


def to_whole(config: TextModelConfig, weights: dict[str, torch.Tensor]) -> PreTrainedModel:
    """transformers' own class with a TextModel's weights; scale and location go into the last layer."""
    with torch.device("meta"):
        whole = whole_model(config)
    prefix, last = whole.base_model_prefix, last_linear(whole)
    weight, bias = weights["head.linear.weight"], weights.get("head.linear.bias")
    if shared := config.head.get("shared"):
        weight, bias = weight.repeat_interleave(torch.tensor(shared), dim=0), weights["head.biases"]
    if "head.scale" in weights:
        scale = weights["head.scale"]
        weight = weight * scale.unsqueeze(1)
        bias = weights["head.location"] + (0 if bias is None else bias * scale)
    own = {f"{last}.weight": weight} | ({} if bias is None else {f"{last}.bias": bias})
    places = {"encoder.": f"{prefix}.", "pooling.pooler.": f"{prefix}.pooler.", "pooling.whole.": ""}
    for name, value in weights.items():
        for ours, theirs in places.items():
            if name.startswith(ours):
                own[theirs + name.removeprefix(ours)] = value
    whole.load_state_dict(own, assign=True)
    if len(config.id2label) == whole.num_labels:  # not so for grades by their cuts
        for name in ("id2label", "label2id", "problem_type"):
            setattr(whole.config, name, getattr(config, name))
    head = config.head | {"location": None, "scale": None, "shared": ()}
    setattr(whole.config, OURS, {"head": head, "task": config.task})
    return whole


def from_whole(whole: PreTrainedModel) -> dict[str, torch.Tensor]:
    """A TextModel's weights from those of transformers' own class."""
    prefix, last = whole.base_model_prefix, last_linear(whole)
    places = {f"{prefix}.pooler.": "pooling.pooler.", f"{prefix}.": "encoder.", f"{last}.": "head.linear."}
    weights = {}
    for name, value in whole.state_dict().items():
        theirs = next((place for place in places if name.startswith(place)), "")
        weights[places.get(theirs, "pooling.whole.") + name.removeprefix(theirs)] = value
    return weights


def read_config(folder: Path | str) -> TextModelConfig:
    """The config of a folder of weights, of either kind."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if isinstance(config, TextModelConfig):
        return config
    ours = getattr(config, OURS)
    names = {name: getattr(config, name) for name in ("id2label", "label2id", "problem_type")}
    return TextModelConfig(encoder=config, pooling=NATIVE, **ours, **names)
