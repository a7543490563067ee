import json
import os
import subprocess
import sys

import pandas as pd
import pytest
import torch
from transformers import AutoModel

from tests.conftest import FAMILIES, save_encoder
from utils.config import Config, InputError
from utils.machine import runtime
from utils.machine.encoders import make_tiny_encoder
from utils.modeling.heads import Head, HeadConfig
from utils.modeling.model import TextModel, TextModelConfig
from utils.runs.artifacts import load_model, save_model, weights_folder
from utils.tasks import make_task
from utils.training.build import build_model

INPUTS = {"input_ids": torch.arange(5, 41).view(3, 12), "attention_mask": torch.ones(3, 12, dtype=torch.long)}
INPUTS["attention_mask"][1, 8:] = 0


def make_model(family="bert", pooling="cls_layers", **head):
    torch.manual_seed(0)
    head_config = HeadConfig(**{"outputs": ("target",), **head})
    config = TextModelConfig(encoder=FAMILIES[family], pooling=pooling, head=head_config)
    return TextModel(config).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A local encoder folder with a tokenizer."""
    path = tmp_path_factory.mktemp("encoder")
    return make_tiny_encoder(path / "tiny")


# --- forward -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["cls_layers", "mean_layers", "cls", "attention"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_scores_and_learns_with_every_pooling(family, pooling):
    model = make_model(family, pooling=pooling, outputs=("a", "b")).train()
    logits = model(**INPUTS).logits
    assert logits.shape == (3, 2)
    logits.square().sum().backward()
    # A tensor without a gradient would take no part in training.
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("pooling", ["cls_layers", "mean_layers", "cls", "attention"])
def test_padding_does_not_change_a_score(pooling):
    model = make_model(pooling=pooling)
    short = {name: value[1:2, :8] for name, value in INPUTS.items()}
    torch.testing.assert_close(model(**INPUTS).logits[1:2], model(**short).logits)


def test_layer_pooling_is_the_weighted_sum_of_the_layers():
    model = make_model(pooling="cls_layers")
    states = model(**INPUTS).hidden_states
    weights = torch.tensor([-3.0, -3.0, -3.0, 0.0]).softmax(0)
    expected = sum(weight * state[:, 0] for weight, state in zip(weights, states, strict=True))
    torch.testing.assert_close(model.pooling(states, INPUTS["attention_mask"]), expected)


def test_mean_pooling_leaves_padding_out():
    model = make_model(pooling="mean_layers")
    states = [torch.randn(3, 12, 32) for _ in range(4)]
    weights = model.pooling.layer_weights.detach().softmax(0)
    expected = sum(weight * state[1, :8].mean(0) for weight, state in zip(weights, states, strict=True))
    torch.testing.assert_close(model.pooling(states, INPUTS["attention_mask"])[1], expected)


def test_multi_sample_dropout_averages_masks_of_the_same_vector():
    head = make_model(dropout=0.5, n_dropouts=400).head
    pooled = torch.randn(2, 32)
    exact = head.multi_sample_dropout(pooled)
    sampled = head.train().multi_sample_dropout(pooled)
    assert not torch.equal(exact, sampled)
    single = Head(32, HeadConfig(("target",), dropout=0.5, n_dropouts=1)).train()
    single.load_state_dict(head.state_dict())
    spread = torch.stack([single.multi_sample_dropout(pooled) for _ in range(50)]).std(dim=0)
    assert ((sampled - exact).abs() < 4 * spread / 20).all()


def test_scores_are_in_the_targets_units():
    plain = make_model(outputs=("a", "b"))
    scaled = make_model(outputs=("a", "b"), location=(5.0, -1.0), scale=(2.0, 0.5))
    expected = plain(**INPUTS).logits * torch.tensor([2.0, 0.5]) + torch.tensor([5.0, -1.0])
    torch.testing.assert_close(scaled(**INPUTS).logits, expected)


# --- building ----------------------------------------------------------------------------------------------


def test_a_built_model_has_the_pretrained_encoder_and_a_fresh_head(folder):
    config = Config.make("tiny", encoder=str(folder))
    task = make_task(config)
    task.fit(pd.DataFrame({"target": [-1.0, 3.0]}))
    model, tokenizer = build_model(config, task)
    pretrained = AutoModel.from_pretrained(folder).state_dict()
    for name, value in model.encoder.state_dict().items():
        assert torch.equal(value, pretrained[name]), name
    assert not list(model.encoder.pooler.parameters()), "an unused pooler has weights"
    assert model.head.linear.weight.std().item() == pytest.approx(0.02, rel=0.5)
    assert model.head.linear.bias.abs().sum() == 0
    assert (model.head.location.tolist(), model.head.scale.tolist()) == ([1.0], [2.0])
    assert tokenizer.model_max_length == config.max_length


@pytest.mark.parametrize("family", FAMILIES)
def test_dropout_inside_the_encoder_is_set_whatever_it_is_called(family, tmp_path):
    shape = type(FAMILIES[family])(**{**FAMILIES[family].to_dict(), "vocab_size": 2000})
    saved = save_encoder(tmp_path / family, shape)
    for dropout, repeats in ((0.0, True), (0.3, False)):
        config = Config.make("tiny", encoder=str(saved), encoder_dropout=dropout, head_dropout=0.0)
        model, _ = build_model(config)
        model.train()
        assert torch.equal(model(**INPUTS).logits, model(**INPUTS).logits) == repeats


def test_reinitialising_works_on_loaded_weights(folder):
    plain, _ = build_model(Config.make("tiny", encoder=str(folder)))
    fresh, _ = build_model(Config.make("tiny", encoder=str(folder), reinit_layers=1))
    name = "encoder.layer.{}.attention.self.query.weight"
    assert torch.equal(plain.encoder.state_dict()[name.format(0)], fresh.encoder.state_dict()[name.format(0)])
    assert not torch.equal(
        plain.encoder.state_dict()[name.format(1)], fresh.encoder.state_dict()[name.format(1)]
    )


def test_a_sentencepiece_model_is_enough_for_a_tokenizer(tmp_path):
    """The Hugging Face hub distributes DeBERTa-v3 like this."""
    import sentencepiece

    texts = tmp_path / "texts"
    texts.write_text("\n".join(f"some plain words to learn pieces from, number {i}" for i in range(200)))
    ids = {"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3}
    pieces = {"pad_piece": "[PAD]", "bos_piece": "[CLS]", "eos_piece": "[SEP]"}
    vocabulary = {"vocab_size": 50, "hard_vocab_limit": False, **ids, **pieces}
    sentencepiece.SentencePieceTrainer.train(
        input=str(texts), model_prefix=str(tmp_path / "spm"), minloglevel=2, **vocabulary
    )
    AutoModel.from_config(FAMILIES["deberta-v2"]).save_pretrained(tmp_path)
    _, tokenizer = build_model(Config.make("tiny", encoder=str(tmp_path)))
    first, *_, last = tokenizer("plain words").input_ids
    assert tokenizer.convert_ids_to_tokens([first, last]) == ["[CLS]", "[SEP]"]


# --- saving and loading ------------------------------------------------------------------------------------


def roundtrip(folder):
    """Save and load a model of every family: all its weights must come back exactly."""
    for family in FAMILIES:
        scaling = {"location": (1.0, 2.0), "scale": (3.0, 4.0)}
        model = make_model(family, outputs=("a", "b"), pooling="attention", **scaling)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.01)
        for directory in (folder / family / "plain", folder / family / "averaged"):
            if directory.name == "plain":
                model.save_pretrained(directory)
            else:
                save_model(model.config, model.state_dict(), _NoTokenizer(), directory)
            loaded = TextModel.from_pretrained(directory).eval()
            state = loaded.state_dict()
            assert state.keys() == model.state_dict().keys()
            for name, value in model.state_dict().items():
                assert torch.equal(value, state[name]), (family, name)
            assert torch.equal(model(**INPUTS).logits, loaded(**INPUTS).logits), family
            eager = TextModel.from_pretrained(directory, attn_implementation="eager").eval()
            assert len(eager(**INPUTS, output_attentions=True).attentions) == 3
            code = {".py"} if directory.name == "averaged" else set()
            assert {path.suffix for path in directory.iterdir()} == {".json", ".safetensors"} | code


class _NoTokenizer:
    def save_pretrained(self, folder):
        pass


def test_a_saved_model_does_not_say_where_its_encoder_lay(folder, tmp_path):
    model, tokenizer = build_model(Config.make("tiny", encoder=str(folder)))
    save_model(model.config, model.state_dict(), tokenizer, tmp_path / "saved")
    assert str(folder.parent) not in "".join(path.read_text() for path in (tmp_path / "saved").glob("*.json"))


def test_a_trained_model_comes_back_exactly(tmp_path):
    roundtrip(tmp_path)


def test_a_trained_model_comes_back_exactly_on_the_oldest_transformers(tmp_path):
    oldest = runtime.ROOT / ".venv" / "oldest"
    if not oldest.is_dir() and "CI" not in os.environ:
        pytest.skip("setup.sh --dev has not installed the oldest transformers")
    script = """
import pathlib, sys, transformers, tests.modeling.test_model
from utils import Config, add_folds, fit_fold, load_table
from utils.machine.encoders import make_tiny_encoder

assert transformers.__version__ == "5.0.0", transformers.__version__
tiny = transformers.AutoTokenizer.from_pretrained(make_tiny_encoder(pathlib.Path(sys.argv[1]) / "encoder"))
assert tiny.tokenize("A Cat") == ["a", "cat"], tiny.tokenize("A Cat")
tests.modeling.test_model.roundtrip(pathlib.Path(sys.argv[1]))
config = Config.make("tiny", output_dir=sys.argv[1])
folder = fit_fold(config, add_folds(load_table(config), config))
assert (folder / "result.json").exists()
print("came back")
"""
    environment = {**os.environ, "PYTHONPATH": f"{oldest}{os.pathsep}{runtime.ROOT}"}
    command = [sys.executable, "-c", script, str(tmp_path)]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert process.stdout.endswith("came back\n"), process.stderr[-3000:]


def test_loading_from_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no model; name a folder of weights, or train that fold"):
        load_model(tmp_path)
    with pytest.raises(InputError, match="holds no model; train that fold first"):
        weights_folder(tmp_path, "last")
    with pytest.raises(InputError, match="weights 'mean' are not known"):
        weights_folder(tmp_path, "mean")


@pytest.mark.parametrize(
    ("model_type", "words"),
    [("text_regressor", "was trained by an earlier version of this suite"), ("bert", "holds a bert model")],
)
def test_a_model_of_another_type_is_refused(model_type, words, tmp_path):
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(InputError, match=words):
        load_model(tmp_path)


@pytest.mark.full
def test_the_tiny_encoder_is_the_same_on_every_machine(tmp_path):
    """Otherwise the same seed would give different weights on two machines of a cluster."""
    code = """
import sys
from pathlib import Path
from utils.machine.encoders import make_tiny_encoder
make_tiny_encoder(Path(sys.argv[1]))
"""
    folders = [tmp_path / name for name in ("one", "other")]
    for number, folder in enumerate(folders):
        environment = {**os.environ, "PYTHONHASHSEED": str(number)}
        subprocess.run(
            [sys.executable, "-c", code, str(folder)], check=True, cwd=runtime.ROOT, env=environment
        )
    names = sorted(path.name for path in folders[0].iterdir())
    assert "model.safetensors" in names
    for name in names:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name
