"""What the probe before training lets through, and what it refuses, family by family."""

import pandas as pd
import pytest
import torch
from transformers import (
    AutoConfig,
    BertConfig,
    DebertaConfig,
    FNetConfig,
    GPT2Config,
    LlamaConfig,
    XLNetConfig,
)

from tests.conftest import save_encoder
from utils.config import InputError
from utils.machine import precision
from utils.runs.fold import fit_fold
from utils.tasks import add_folds, load_table
from utils.training.probe import probe, probe_examples
from utils.training.setup import prepare

SHAPE = {
    "vocab_size": 2001,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}


@pytest.fixture
def prepared(tiny, tmp_path):
    """Prepares the training of an encoder's config with overrides of the tiny preset."""

    def make(config, tokenizer=None, **overrides):
        folder = save_encoder(tmp_path / config.model_type, config, **(tokenizer or {}))
        settings = tiny(encoder=str(folder), **{"pooling": "mean_layers", **overrides})
        return prepare(settings, add_folds(load_table(settings), settings), 0)

    return make


def test_the_probe_leaves_no_trace(prepared):
    training = prepared(BertConfig(**SHAPE))
    weights = {name: value.clone() for name, value in training.model.state_dict().items()}
    before = torch.get_rng_state()
    probe(training)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, weights[name]) for name, value in training.model.state_dict().items())
    assert all(weight.grad is None for weight in training.model.parameters())


def test_the_longest_text_is_as_long_as_any_can_be(prepared):
    training = prepared(BertConfig(**SHAPE), max_length=500)
    assert probe_examples(training).lengths == [500, 125, 125]
    assert max(training.train.lengths) < 500, "the sample has texts of this length, so nothing was shown"


@pytest.mark.parametrize("pooling", ["cls", "cls_layers"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_pooling_that_sees_no_text_is_refused(prepared, family, pooling):
    configs = {
        "gpt2": GPT2Config(vocab_size=2000, n_embd=32, n_layer=2, n_head=2),
        "llama": LlamaConfig(**SHAPE, num_key_value_heads=2),
    }
    with pytest.raises(InputError, match=r'does not see the text.*set pooling="last"'):
        probe(prepared(configs[family], pooling=pooling))
    for suitable in ("last", "mean_layers", "attention"):
        probe(prepared(configs[family], pooling=suitable))


def test_an_encoder_that_mixes_in_its_batch_is_refused(prepared):
    config = FNetConfig(vocab_size=2000, hidden_size=32, num_hidden_layers=2, intermediate_size=64)
    with pytest.raises(InputError, match="fnet encoder makes of a text depends on the other texts"):
        probe(prepared(config))


@pytest.mark.parametrize("pooling", ["cls", "cls_layers", "last"])
def test_padding_on_the_left_is_no_hindrance(prepared, pooling):
    config = XLNetConfig(vocab_size=2000, d_model=32, n_layer=2, n_head=2, d_inner=64)
    probe(prepared(config, tokenizer={"padding_side": "left"}, pooling=pooling))


def test_a_precision_that_an_encoder_cannot_compute_in_is_named(prepared, monkeypatch):
    monkeypatch.setattr(precision, "_has_bf16", lambda device: True)
    config = DebertaConfig(**SHAPE, relative_attention=True, pos_att_type=["p2c", "c2p"], type_vocab_size=0)
    with pytest.raises(InputError, match=r"cannot compute in bf16 \(.*\); set precision=fp32."):
        probe(prepared(config, precision="bf16"))
    probe(prepared(config, precision="fp32"))


def test_a_length_that_an_encoder_cannot_read_is_named(prepared, monkeypatch):
    training = prepared(BertConfig(**SHAPE))
    forward = type(training.model.encoder).forward

    def limited(encoder, input_ids, **inputs):
        if input_ids.shape[1] > 40:
            raise IndexError("index out of range in self")
        return forward(encoder, input_ids=input_ids, **inputs)

    monkeypatch.setattr(type(training.model.encoder), "forward", limited)
    with pytest.raises(
        InputError, match=r"cannot read max_length=64 tokens \(index out.*; lower max_length."
    ):
        probe(training)


def test_outputs_that_are_no_numbers_are_refused(prepared):
    training = prepared(BertConfig(**SHAPE))
    with torch.no_grad():
        training.model.head.linear.bias.fill_(float("inf"))
    with pytest.raises(InputError, match="its outputs are not finite"):
        probe(training)


def test_memory_that_runs_out_is_left_to_the_training(prepared, monkeypatch):
    training = prepared(BertConfig(**SHAPE))

    def out_of_memory(*_, **__):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(type(training.model.encoder), "forward", out_of_memory)
    probe(training)


def test_nothing_is_written_for_what_is_refused(prepared, workspace):
    training = prepared(GPT2Config(vocab_size=2000, n_embd=32, n_layer=2, n_head=2), pooling="cls")
    config = training.config
    with pytest.raises(InputError, match="does not see the text"):
        fit_fold(config, add_folds(load_table(config), config))
    assert not (workspace / "output" / config.run_name).exists()


#: Architectures by how they end: trained, or refused by a sentence with these words.
TRAINED = """
bert camembert data2vec-text deberta-v2 distilbert electra ernie esm longformer luke megatron-bert
mobilebert modernbert mpnet rembert roberta roberta-prelayernorm roc_bert splinter squeezebert
xlm-roberta xmod bloom ernie4_5 eurobert flaubert gemma3_text gpt2 gpt_neox llama mistral opt phi
qwen2 qwen3 smollm3 xlm xlnet
"""
ARCHITECTURES = {
    **dict.fromkeys(TRAINED.split(), ""),
    "albert": "use param_groups",
    "convbert": "depends on the other texts",
    "fnet": "depends on the other texts",
    "yoso": "depends on the other texts",
    "big_bird": "depends on the other texts",
    "lilt": "cannot be trained",
    "nystromformer": "cannot be trained|depends on the other texts",
    "t5": "not an encoder of one stack",
    "bart": "not an encoder of one stack",
}


@pytest.mark.full
@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_every_architecture_trains_and_comes_back_or_says_why_not(model_type, tiny, tmp_path):
    from utils.explain.explainer import Explainer
    from utils.release.predict import predict
    from utils.tasks import make_task

    sizes = {**SHAPE, "num_hidden_layers": 3, "pad_token_id": 0, "max_position_embeddings": 130}
    own = {
        "distilbert": {"dim": 32, "n_layers": 3, "n_heads": 2, "hidden_dim": 48},
        "xlnet": {"d_model": 32, "n_layer": 3, "n_head": 2, "d_inner": 64},
        "xlm": {"emb_dim": 32, "n_layers": 3, "n_heads": 2},
        "flaubert": {"emb_dim": 32, "n_layers": 3, "n_heads": 2},
        "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 2},
        "bloom": {"hidden_size": 32, "n_layer": 3, "n_head": 2},
        "opt": {"ffn_dim": 64, "word_embed_proj_dim": 32},
        "luke": {"entity_vocab_size": 10, "entity_emb_size": 16},
        "squeezebert": {
            "embedding_size": 32,
            **dict.fromkeys(
                ["q_groups", "k_groups", "v_groups", "post_attention_groups", "intermediate_groups"], 1
            ),
            "output_groups": 1,
        },
        "xmod": {"languages": ("en_XX",), "default_language": "en_XX"},
        "mobilebert": {"embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16},
        "longformer": {"attention_window": 16},
        "big_bird": {"block_size": 8, "num_random_blocks": 1},
        "t5": {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2},
        "bart": {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1},
    }
    if model_type == "xlnet":
        del sizes["max_position_embeddings"]
    if model_type in ("llama", "mistral", "qwen2", "qwen3", "gemma3_text", "ernie4_5", "smollm3", "eurobert"):
        sizes |= {"num_key_value_heads": 2, "head_dim": 16}
    config = AutoConfig.for_model(model_type, **{**sizes, **own.get(model_type, {})})
    folder = save_encoder(tmp_path / "encoder", config)
    settings = tiny(
        encoder=str(folder), pooling="mean_layers", max_length=120, max_rows=24, epochs=1, swa_start=0
    )
    table = add_folds(load_table(settings), settings)
    if words := ARCHITECTURES[model_type]:
        with pytest.raises(InputError, match=words):
            fit_fold(settings, table)
        return
    fold = fit_fold(settings, table)
    held_out = table[table["fold"] == 0]
    torch.testing.assert_close(
        torch.tensor(predict(fold / "averaged", held_out)["target"].to_numpy(float)),
        torch.tensor(pd.read_csv(fold / "predictions.csv")["averaged"].to_numpy(float)),
        atol=1e-5,
        rtol=0,
    )
    reading = Explainer(fold / "averaged", make_task(settings)).read(held_out["excerpt"].tolist()[:2])[0]
    assert abs(reading.gradients).sum() > 0
