"""TextModel: an encoder, pooling over its layers or tokens, and a head."""

from dataclasses import asdict, dataclass

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel, initialization
from transformers.modeling_outputs import ModelOutput

from .heads import Head, HeadConfig
from .pooling import POOLINGS, Pooling


class TextModelConfig(PreTrainedConfig):
    """What a TextModel is made of, apart from its weights.

    Args:
        encoder: the encoder's config, as an object or a dict.
        pooling: a name in ``POOLINGS``; layer_dropout: its dropout rate; pooling_options: its other settings.
        head: a HeadConfig, or the dict of one.
        task: which task the model was trained for and the columns that it reads, as the task describes
            itself.
    """

    model_type = "text_model"
    sub_configs = {"encoder": AutoConfig}  # noqa: RUF012 - the name and type are transformers'
    has_no_defaults_at_init = True

    def __init__(self, encoder=None, pooling="cls_layers", layer_dropout=0.0, head=None, task=None, **kwargs):
        encoder = dict(encoder) if isinstance(encoder, dict) else encoder.to_dict()
        encoder.pop("_name_or_path", None)  # where it lay on the machine that trained it
        self.encoder = AutoConfig.for_model(encoder.pop("model_type"), **encoder)
        self.pooling = pooling
        self.layer_dropout = layer_dropout
        self.head = asdict(head) if isinstance(head, HeadConfig) else dict(head or {"outputs": ["target"]})
        self.task = dict(task or {})
        self.pooling_options = dict(kwargs.pop("pooling_options", {}))
        super().__init__(**kwargs)


@dataclass
class TextModelOutput(ModelOutput):
    """``logits``: (batch, outputs); for a score, in the target's own units. ``pooled``: what the head reads.
    Of a pooling that is per token, both are (batch, tokens, ...).

    ``auxiliary``: of each text, (batch,), the pooling's own loss, if it has one.
    ``hidden_states``: of every layer, the embeddings' output first, each (batch, tokens, width).
    ``attentions``: of every layer, (batch, heads, tokens, tokens), where they were asked for.
    """

    logits: torch.Tensor | None = None
    pooled: torch.Tensor | None = None
    auxiliary: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class TextModel(PreTrainedModel):
    """``encoder``, ``pooling`` and ``head``: every key of its state dict begins with one of these."""

    config_class = TextModelConfig
    base_model_prefix = "encoder"
    _supports_sdpa = True  # what the encoder does with attention is its own affair

    def __init__(self, config: TextModelConfig):
        super().__init__(config)
        encoder = AutoModel.from_config(config.encoder)
        if getattr(encoder, "pooler", None) is not None:
            # We pool ourselves, and parameters without gradients would break data parallelism. Not None: some
            # architectures call it unasked.
            encoder.pooler = nn.Identity()
        if config.pooling not in POOLINGS:
            raise ValueError(
                f"pooling={config.pooling!r} is not known; choose one of: {', '.join(sorted(POOLINGS))}."
            )
        # Pooling comes first among the parameters, as its weights always have: clipping sums the norms of
        # gradients in this order, and another one would round the sum otherwise.
        self.pooling = POOLINGS[config.pooling].build(config)
        self.encoder = encoder
        self.head = Head(self.pooling.width, HeadConfig(**config.head | self.pooling.head_changes))
        self.post_init()

    def _init_weights(self, module):
        if isinstance(module, nn.Linear):
            std = getattr(self.config.encoder, "initializer_range", 0.02)
            initialization.normal_(module.weight, mean=0.0, std=std)
            if module.bias is not None:
                initialization.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            initialization.ones_(module.weight)
            initialization.zeros_(module.bias)
        elif isinstance(module, Pooling | Head):
            module.initialize()

    def forward(self, extras: dict[str, torch.Tensor] | None = None, **inputs) -> TextModelOutput:
        """Outputs for tokenised texts.

        Args:
            inputs: what the encoder takes: ``input_ids``, ``attention_mask``, each (batch, tokens), and more.
            extras: token-aligned tensors, (batch, tokens), of which the pooling takes those that it names.
        """
        if getattr(self.config.encoder, "type_vocab_size", 2) < 2:
            inputs.pop("token_type_ids", None)  # of a tokenizer with segments, for an encoder without
        states = self.encoder(**inputs, output_hidden_states=True, return_dict=True)
        # In some encoders (ModernBERT) the last of the hidden states lacks the final norm.
        layers = (*states.hidden_states[:-1], states.last_hidden_state)
        aligned = {name: (extras or {})[name] for name in self.pooling.extras}
        if mask := self.pooling.second_pass:
            alone = {**inputs, "attention_mask": aligned[mask].to(inputs["attention_mask"])}
            aligned[mask] = self.encoder(**alone, return_dict=True).last_hidden_state
        pooled = self.pooling(layers, inputs["attention_mask"], **aligned)
        pooled, auxiliary = pooled if self.pooling.auxiliary else (pooled, None)
        return TextModelOutput(
            logits=self.head(pooled),
            pooled=pooled,
            auxiliary=auxiliary,
            hidden_states=layers,
            attentions=getattr(states, "attentions", None),
        )
