"""Exported models: as ONNX they give the same answers, and need onnxruntime and tokenizers alone."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from tests.release.helpers import PARAMETERS, assert_same_answers, numbers_of
from utils import predict
from utils.__main__ import main
from utils.config import InputError
from utils.machine import runtime
from utils.release import onnx as exporting
from utils.release.onnx import export
from utils.runs import seal

for _name in exporting.PACKAGES:
    pytest.importorskip(_name, reason="requirements-export.txt is not installed")

TEXTS_ALONE = {"numbers", "several numbers", "binary", "multiclass", "several targets", "multilabel"}
TEXTS_ALONE |= {"ordinal", "ordinal, corn", "ordinal, as classes"}


@pytest.fixture(scope="session")
def exported(random_weights, tmp_path_factory):
    """Gives the exported folder of a kind; exporting takes seconds, so that each is made once."""
    made, folder = {}, tmp_path_factory.mktemp("exported")

    def get(kind):
        if kind not in made:
            made[kind] = export(random_weights(kind)[0], folder / kind.replace(" ", "-"))
        return made[kind]

    return get


@pytest.fixture
def graph_at_hand(exported, monkeypatch):
    """Exporting takes the graph of "numbers" that there is, whose weights are the same."""

    def copy(model, tokenizer, path):
        shutil.copy(exported("numbers") / "model.onnx", path)
        return ["input_ids", "attention_mask", "token_type_ids"]

    monkeypatch.setattr(exporting, "write_graph", copy)
    return copy


def full_unless(kind, few=("numbers",)):
    return pytest.param(kind, marks=[] if kind in few else [pytest.mark.full])


@pytest.mark.parametrize("kind", [full_unless(one.values[0]) for one in PARAMETERS])
def test_an_exported_model_gives_the_same_answers(kind, exported, random_weights):
    folder, rows = random_weights(kind)
    target = exported(kind)
    assert_same_answers(predict(target, rows), predict(folder, rows), atol=1e-4)
    facts = json.loads((target / "export.json").read_text())
    assert facts["difference"] <= 1e-4
    assert facts["opset"]["ai.onnx"] >= 17
    assert {"onnx", "onnxruntime", "torch", "transformers"} <= set(facts["versions"])
    assert set(seal.read_manifest(target)["files"]) == {
        path.name for path in target.iterdir() if path.name not in ("manifest.json", "README.md")
    }


@pytest.mark.parametrize("kind", [full_unless(kind) for kind in sorted(TEXTS_ALONE)])
def test_the_script_predicts_with_onnxruntime_and_tokenizers_alone(kind, exported, random_weights, tmp_path):
    folder, rows = random_weights(kind)
    code = "import sys, runpy; sys.modules.update(dict.fromkeys(['torch', 'transformers', 'utils'])); "
    code += "runpy.run_path(sys.argv[1], run_name='__main__')"
    lines = "\n".join(" ".join(text.split()) for text in rows["excerpt"])
    command = [sys.executable, "-P", "-c", code, str(exported(kind) / "predict.py")]
    done = subprocess.run(command, input=lines, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    printed = [json.loads(line) for line in done.stdout.splitlines()]
    answers = predict(folder, rows)
    for name in answers.select_dtypes("number"):
        np.testing.assert_allclose([row[name] for row in printed], answers[name], atol=1e-4)


def test_int8_is_smaller_and_says_how_far_it_is_off(
    random_weights, exported, graph_at_hand, tmp_path, capsys
):
    folder, rows = random_weights("numbers")
    with pytest.raises(SystemExit):
        main(["export", str(folder), "--int8", "--output", str(tmp_path / "int8")])
    printed = capsys.readouterr().out
    assert "opset" in printed
    facts = json.loads((tmp_path / "int8" / "export.json").read_text())
    assert facts["int8"]
    assert facts["difference"] > 1e-6
    whole, rounded = (path / "model.onnx" for path in (exported("numbers"), tmp_path / "int8"))
    assert rounded.stat().st_size < 0.6 * whole.stat().st_size
    assert str(runtime.ROOT).encode() not in whole.read_bytes()
    one, other = (numbers_of(predict(one, rows)) for one in (folder, tmp_path / "int8"))
    assert 0 < np.abs(one - other).max() < 10 * facts["difference"]


def test_a_model_whose_outputs_differ_is_refused_and_nothing_is_written(
    random_weights, graph_at_hand, tmp_path, monkeypatch
):
    def write_rounded(model, tokenizer, path):
        names = graph_at_hand(model, tokenizer, path)
        exporting._quantize(path)
        return names

    monkeypatch.setattr(exporting, "write_graph", write_rounded)
    folder, _ = random_weights("numbers")
    with pytest.raises(
        InputError, match=r"its outputs in ONNX differ from torch's by \d.*; predict with the weights"
    ):
        export(folder, tmp_path / "new")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_no_export_is_not_replaced_and_a_damaged_one_not_read(
    exported, random_weights, tmp_path
):
    folder, rows = random_weights("numbers")
    (tmp_path / "notes").mkdir()
    with pytest.raises(InputError, match="exists and is no export; name another: --output"):
        export(folder, tmp_path / "notes")
    path = exported("numbers") / "model.onnx"
    whole = (path.parent / "README.md").read_text()
    (path.parent / "README.md").write_text(f"{whole}\nMIT\n")
    assert len(predict(path.parent, rows)) == len(rows), "a card is its owner's to edit"
    (path.parent / "README.md").write_text(whole)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        with pytest.raises(InputError, match=r"model.onnx is missing, cut short or altered"):
            predict(path.parent, rows)
    finally:
        path.write_bytes(content)


def test_a_missing_package_is_named_with_the_way_to_install_it(random_weights, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"ONNX needs onnx.*; run: pip install -r requirements-export\.txt"):
        export(random_weights("numbers")[0], tmp_path / "new")
    assert not list(tmp_path.iterdir())
