"""Layers, positions and fresh weights, whatever an architecture calls them."""

import pytest
import torch
from torch import nn
from transformers import (
    AutoModel,
    BertConfig,
    FlaubertConfig,
    FunnelConfig,
    FunnelModel,
    GPT2Config,
    LlamaConfig,
    MPNetConfig,
    OPTConfig,
    XLMConfig,
    XLNetConfig,
)

from tests.conftest import FAMILIES, RELATIVE, SHAPE
from utils.modeling.encoders import encoder_layers, longest_text, parameter_layers, reinitialize

VOCABULARY = {"vocab_size": 99}
#: Architectures that keep their layers, embeddings or positions in ways of their own.
UNUSUAL = {
    "xlm": XLMConfig(**VOCABULARY, emb_dim=32, n_layers=3, n_heads=2),
    "flaubert": FlaubertConfig(**VOCABULARY, emb_dim=32, n_layers=3, n_heads=2),
    "gpt2": GPT2Config(**VOCABULARY, n_positions=64, n_embd=32, n_layer=3, n_head=2),
    "xlnet": XLNetConfig(**VOCABULARY, d_model=32, n_layer=3, n_head=2, d_inner=64),
    "llama": LlamaConfig(**SHAPE, num_key_value_heads=2, max_position_embeddings=64),
}


@pytest.mark.parametrize("config", [*FAMILIES.values(), *UNUSUAL.values()], ids=[*FAMILIES, *UNUSUAL])
def test_layers_are_whole_and_every_parameter_has_its_place(config):
    encoder = AutoModel.from_config(config)
    layers, places = encoder_layers(encoder), parameter_layers(encoder)
    assert len(layers) == 3
    assert set(places) == {name for name, _ in encoder.named_parameters()}
    sizes = [
        sum(parameter.numel() for name, parameter in encoder.named_parameters() if places[name] == layer)
        for layer in range(3)
    ]
    assert sizes[0] > 0
    assert max(sizes) - min(sizes) <= 32, "all layers are alike, but that ModernBERT's lowest lacks one norm"
    for name, module in encoder.named_modules():
        if isinstance(module, nn.Embedding) and not name.startswith("pooler"):
            assert places[f"{name}.weight"] == -1, name


def test_xlm_keeps_a_layer_in_four_lists():
    encoder = AutoModel.from_config(UNUSUAL["xlm"])
    assert encoder_layers(encoder)[1] == ["attentions.1", "layer_norm1.1", "ffns.1", "layer_norm2.1"]
    places = parameter_layers(encoder)
    assert (places["ffns.0.lin1.weight"], places["layer_norm2.2.weight"]) == (0, 2)


def test_gpt2_has_embeddings_below_and_a_norm_on_top():
    places = parameter_layers(AutoModel.from_config(UNUSUAL["gpt2"]))
    assert (places["wte.weight"], places["wpe.weight"], places["ln_f.weight"]) == (-1, -1, 3)


def test_layers_in_blocks_are_found_and_what_is_beside_them_is_named():
    config = FunnelConfig(
        **VOCABULARY, block_sizes=[2, 1], d_model=32, n_head=2, d_head=16, d_inner=64, num_decoder_layers=1
    )
    encoder = FunnelModel(config)
    assert [parts[0] for parts in encoder_layers(encoder)] == [
        "encoder.blocks.0.0",
        "encoder.blocks.0.1",
        "encoder.blocks.1.0",
    ]
    with pytest.raises(
        ValueError, match=r"'decoder.layers.0.*belongs to none of its layers; use param_groups"
    ):
        parameter_layers(encoder)


def test_an_unknown_part_on_top_is_named():
    encoder = AutoModel.from_config(BertConfig(**SHAPE))
    encoder.surprise = nn.Conv1d(32, 32, 3)
    with pytest.raises(ValueError, match=r"'surprise.weight' of a bert encoder belongs to none"):
        parameter_layers(encoder)


@pytest.mark.parametrize("family", ["bert", "modernbert", "xlm", "xlnet"])
def test_reinitialising_renews_the_whole_top_layer_and_nothing_else(family):
    encoder = AutoModel.from_config((FAMILIES | UNUSUAL)[family])
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.fill_(7.0)
    reinitialize(encoder, 1)
    places = parameter_layers(encoder)
    kept = {name for name, value in encoder.named_parameters() if (value == 7.0).all()}
    assert kept == {name for name, layer in places.items() if layer != 2}
    with pytest.raises(ValueError, match="more than the encoder's 3 layers"):
        reinitialize(encoder, 4)


@pytest.mark.parametrize(
    ("config", "longest"),
    [
        (FAMILIES["bert"], 512),
        (FAMILIES["roberta"], 64),
        (MPNetConfig(**SHAPE, max_position_embeddings=66), 64),
        (
            OPTConfig(**VOCABULARY, hidden_size=32, ffn_dim=48, num_hidden_layers=1, num_attention_heads=2),
            2048,
        ),
        (UNUSUAL["gpt2"], 64),
        (UNUSUAL["xlnet"], None),
        (UNUSUAL["llama"], None),
        (FAMILIES["modernbert"], None),
        (FAMILIES["deberta-v2"], 512),
        (FAMILIES["deberta-v3"], None),
    ],
    ids=lambda value: getattr(value, "model_type", str(value)),
)
def test_only_learnt_positions_limit_a_text(config, longest):
    assert longest_text(AutoModel.from_config(config)) == longest


def test_deberta_reads_more_tokens_than_its_config_names():
    config = type(FAMILIES["deberta-v3"])(
        **SHAPE, **RELATIVE, position_biased_input=False, type_vocab_size=0, max_position_embeddings=32
    )
    ids = torch.randint(5, 99, (1, 80))
    assert AutoModel.from_config(config)(ids).last_hidden_state.shape == (1, 80, 32)
