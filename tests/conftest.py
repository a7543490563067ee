"""Shared by all tests: tables, tiny random encoders and a workspace per test."""

import dataclasses
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may depend on a hub

import pandas as pd
import pytest
import torch
from hypothesis import settings
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    RobertaConfig,
)

from utils.config import Config
from utils.machine import runtime
from utils.machine.encoders import make_tiny_encoder
from utils.tasks import add_folds, load_table

SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 99,
}
RELATIVE = {
    "relative_attention": True,
    "position_buckets": 8,
    "norm_rel_ebd": "layer_norm",
    "pos_att_type": ["p2c", "c2p"],
}
FAMILIES = {
    "bert": BertConfig(**SHAPE),
    "roberta": RobertaConfig(**SHAPE, max_position_embeddings=66),
    "electra": ElectraConfig(**SHAPE, embedding_size=16),
    "deberta-v2": DebertaV2Config(**SHAPE, **RELATIVE),
    "deberta-v3": DebertaV2Config(**SHAPE, **RELATIVE, position_biased_input=False, type_vocab_size=0),
    "distilbert": DistilBertConfig(dim=32, n_layers=3, n_heads=2, hidden_dim=48, vocab_size=99),
    "modernbert": ModernBertConfig(**SHAPE, pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1),
}


def save_encoder(folder, config, **tokenizer):
    """A random encoder of a config, with the tiny encoder's tokenizer, changed as said; the folder."""
    model = AutoModel.from_config(config)
    model.save_pretrained(folder)
    made = AutoTokenizer.from_pretrained(make_tiny_encoder(folder.parent / "tiny-encoder"), **tokenizer)
    made.save_pretrained(folder)
    return folder


def pytest_addoption(parser):
    parser.addoption("--full", action="store_true", help="also run the tests marked full")


def pytest_configure(config):
    for name in ("NO_PROXY", "no_proxy"):  # the tests' own servers are reached without a proxy
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1", "localhost"]))
    # No deadline, since the machine may be busy. Hypothesis looks for new examples only with --full, so that
    # a change never fails CI for an example that has nothing to do with it.
    settings.register_profile("suite", deadline=None, derandomize=not config.getoption("--full"))
    settings.load_profile("suite")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--full"):
        for item in items:
            if item.get_closest_marker("full"):
                item.add_marker(pytest.mark.skip(reason="runs with --full (make test-all)"))


#: The allowed values of every setting that has a fixed set of them.
CHOICES = {
    field.name: field.metadata["choices"]
    for field in dataclasses.fields(Config)
    if "choices" in field.metadata
}


@pytest.fixture(scope="session", autouse=True)
def _threads():
    torch.set_num_threads(1)  # fastest for tiny models, and the same on every machine


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """The folder that holds this test's data/ and output/."""
    monkeypatch.setattr(runtime, "workspace", lambda: tmp_path)
    return tmp_path


@pytest.fixture
def tiny(workspace):
    """Makes a Config of the tiny preset in float32 from overrides."""
    return lambda **overrides: Config.make("tiny", **{"precision": "fp32", **overrides})


@pytest.fixture
def tiny_table(tiny):
    config = tiny()
    return add_folds(load_table(config), config)


@pytest.fixture
def rows():
    """A small well-formed table of strings, as read from a CSV file."""
    return pd.DataFrame(
        {
            "id": [f"r{i}" for i in range(12)],
            "excerpt": [f"text number {i} with some words" for i in range(12)],
            "target": [str(i / 10) for i in range(12)],
        }
    )
