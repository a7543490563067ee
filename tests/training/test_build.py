"""A second stage: a trained fold as the encoder of another training."""

import json

import pytest
import torch
from safetensors.torch import load_file

from utils.config import InputError
from utils.runs.fold import fit_fold
from utils.training.build import build_model


@pytest.fixture
def first(tiny, tiny_table):
    """The averaged weights of a trained fold."""
    return fit_fold(tiny(run="first"), tiny_table) / "averaged"


def test_the_head_is_kept_where_the_outputs_are_the_same(first, tiny, tiny_table, capsys):
    model, _ = build_model(tiny(encoder=str(first)))
    saved = load_file(first / "model.safetensors")
    for name, value in model.state_dict().items():
        assert torch.equal(value, saved[name]), name
    head = json.loads((first / "config.json").read_text())["head"]
    assert list(model.config.head["scale"]) == head["scale"]
    assert "with its pooling and head" in capsys.readouterr().out
    folder = fit_fold(tiny(encoder=str(first), run="second", lr=1e-5), tiny_table)
    assert (folder / "result.json").is_file()


@pytest.mark.parametrize("change", [{"pooling": "attention"}, {"target_columns": ("other",)}])
def test_another_question_gets_a_new_head(first, tiny, change, capsys):
    from utils.tasks import make_task

    config = tiny(encoder=str(first), **change)
    task = make_task(config)
    model, _ = build_model(config, task)
    saved = load_file(first / "model.safetensors")
    assert torch.equal(
        model.state_dict()["encoder.embeddings.LayerNorm.weight"],
        saved["encoder.embeddings.LayerNorm.weight"],
    )
    assert not torch.equal(model.state_dict()["head.linear.weight"], saved["head.linear.weight"])
    assert "pooling and head are new" in capsys.readouterr().out


def test_a_damaged_fold_is_no_encoder(first, tiny, tiny_table, workspace):
    weights = first / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-100])
    with pytest.raises(InputError, match="its weights cannot be loaded"):
        build_model(tiny(encoder=str(first)))
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(InputError, match=r"model.safetensors is missing, cut short or altered"):
        fit_fold(tiny(encoder=str(first), run="second"), tiny_table)
    assert not (workspace / "output" / "second").exists()


def test_another_fold_of_the_same_data_has_seen_what_this_one_holds_out(first, tiny, tiny_table, workspace):
    config = tiny(encoder=str(first), run="leaking", fold=1)
    with pytest.raises(InputError, match=r"is fold 0 of the same data.*name the weights of fold 1"):
        fit_fold(config, tiny_table)
    assert not (workspace / "output" / "leaking").exists()
