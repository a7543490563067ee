"""A folder of weights in other projects: by its own code, without this package."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.release.helpers import PARAMETERS, numbers_of
from utils import predict
from utils.machine import runtime
from utils.modeling.pooling import POOLINGS
from utils.modeling.portable import scores
from utils.runs import artifacts, seal
from utils.runs.portable import task_of

#: Reads folders and texts, and writes what each class of transformers gives for them.
PROGRAM = """
import importlib.util, json, sys
assert importlib.util.find_spec("utils") is None
import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer, pipeline
import transformers
results = {}
for folder, inputs in json.load(open(sys.argv[1])):
    trust = {"trust_remote_code": True}
    model, tokenizer = AutoModel.from_pretrained(folder, **trust), AutoTokenizer.from_pretrained(folder)
    config = AutoConfig.from_pretrained(folder, **trust)
    assert type(model).__module__.startswith("transformers_modules"), type(model)
    encoded = [tokenizer(*one["texts"], truncation=True, return_tensors="pt") for one in inputs]
    extras = [{name: torch.tensor([values]) for name, values in one["extras"].items()} for one in inputs]
    with torch.no_grad():
        raw = [model(**one, extras=more).logits for one, more in zip(encoded, extras)]
        result = {"raw": [one[0].tolist() for one in raw]}
        for name in [name for name in config.auto_map if name.startswith("AutoModelFor")]:
            own = getattr(transformers, name).from_pretrained(folder, **trust)
            outputs = [own(**one) for one in encoded]
            result[name] = [{key: one[key][0].tolist() for key in one if "logits" in key} for one in outputs]
            if name.endswith("SequenceClassification"):
                pipe = pipeline("text-classification", model=folder, top_k=None, **trust)
                shown = pipe([one["texts"][0] for one in inputs], truncation=True)
                result["pipeline"] = [{one["label"]: one["score"] for one in row} for row in shown]
    results[folder] = result
json.dump(results, open(sys.argv[2], "w"))
"""


def run_elsewhere(folder, jobs, **environment):
    """What the program gives, run in an empty folder, with this environment's packages alone."""
    (folder / "jobs.json").write_text(json.dumps(jobs))
    (folder / "empty").mkdir()
    command = [sys.executable, "-P", "-c", PROGRAM, str(folder / "jobs.json"), str(folder / "results.json")]
    cache = {"HF_MODULES_CACHE": str(folder / "modules"), "OMP_NUM_THREADS": "1"}
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | cache
    done = subprocess.run(
        command,
        cwd=folder / "empty",
        env=variables | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "results.json").read_text())


def inputs_of(folder, rows):
    """Some rows as the tokenizer takes them, cleaned, with the model's extras."""
    model, tokenizer = artifacts.load_model(folder)
    task = task_of(model.config)
    table = task.prepare(rows, "the table")
    examples = task.encode(table, tokenizer)
    texts = [" ".join(row.split()) for row in table[task.config.text_column]]
    pairs = [table[column].tolist() for column in task.config.text_columns[1:]]
    joined = list(zip(texts, *pairs, strict=True))
    names = model.pooling.extras
    extras = [
        {name: examples.extras[name][examples.slice(i)].tolist() for name in names} for i in range(len(rows))
    ]
    ordered = [one[::-1] if task.text_place else one for one in joined]
    return [{"texts": one, "extras": more} for one, more in zip(ordered, extras, strict=True)]


def test_a_folder_gives_the_same_scores_elsewhere(random_weights, tmp_path, request):
    kinds = [one.values[0] for one in PARAMETERS if not one.marks or request.config.getoption("--full")]
    jobs, rows_of = [], {}
    for kind in kinds:
        folder, rows = random_weights(kind)
        rows_of[kind] = rows = rows.head(3)
        jobs.append((str(folder), inputs_of(folder, rows)))
    results = run_elsewhere(tmp_path, jobs)
    for kind in kinds:
        folder, _ = random_weights(kind)
        check_kind(kind, folder, rows_of[kind], results[str(folder)])


def check_kind(kind, folder, rows, result):
    answers, (model, _) = predict(folder, rows), artifacts.load_model(folder)
    task = task_of(model.config)
    if kind == "spans":
        assert "AutoModelForQuestionAnswering" in result
        first = result["AutoModelForQuestionAnswering"][0]
        np.testing.assert_allclose(
            np.transpose([first["start_logits"], first["end_logits"]]), result["raw"][0]
        )
        return
    decoded = task.decode([np.array(one) for one in result["raw"]], None)
    expected = task.answers(rows.get("id"), decoded)
    np.testing.assert_allclose(numbers_of(expected), numbers_of(answers)[:, -decoded.shape[1] :], atol=1e-5)
    if kind in ("pairs", "aspects", "several targets"):
        assert set(result) == {"raw"}
        return
    shown = [[row[name] for name in answers.select_dtypes("number")] for row in result["pipeline"]]
    np.testing.assert_allclose(shown, numbers_of(answers), atol=1e-5)


@pytest.mark.full
def test_the_oldest_transformers_reads_a_folder_elsewhere(random_weights, tmp_path):
    oldest = runtime.ROOT / ".venv" / "oldest"
    if not oldest.is_dir() and "CI" not in os.environ:
        pytest.skip("setup.sh --dev has not installed the oldest transformers")
    folder, rows = random_weights("ordinal")
    jobs = [(str(folder), inputs_of(folder, rows.head(3)))]
    results = run_elsewhere(tmp_path, jobs, PYTHONPATH=str(oldest))
    check_kind("ordinal", folder, rows.head(3), results[str(folder)])


def test_no_code_of_a_folder_runs_here(random_weights, tmp_path):
    source, rows = random_weights("numbers")
    folder = shutil.copytree(source, tmp_path / "copy")
    for path in folder.glob("*.py"):
        path.write_text("raise SystemExit('the code of a folder has run')\n")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["auto_map"] = {"AutoTokenizer": ["modeling_text_model.Tokenizer", None]}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    seal.seal(folder)
    np.testing.assert_array_equal(numbers_of(predict(folder, rows)), numbers_of(predict(source, rows)))


def test_a_folder_without_code_is_still_read_and_one_has_only_what_it_needs(random_weights, tmp_path):
    source, rows = random_weights("numbers")
    folder = shutil.copytree(source, tmp_path / "copy")
    code = sorted(path.name for path in folder.glob("*.py"))
    assert code == [
        "heads.py",
        "losses.py",
        "model.py",
        "modeling_text_model.py",
        "pooling.py",
        "portable.py",
    ]
    assert set(code) < set(seal.read_manifest(folder)["files"])
    config = json.loads((folder / "config.json").read_text())
    del config["task"]["loss"]  # as earlier versions had it
    for name in ("auto_map", "id2label", "label2id", "problem_type"):
        del config[name]
    (folder / "config.json").write_text(json.dumps(config))
    for name in code:
        (folder / name).unlink()
    seal.seal(folder)
    np.testing.assert_array_equal(numbers_of(predict(folder, rows)), numbers_of(predict(source, rows)))


def test_a_model_with_a_pooling_of_ones_own_is_saved_without_code(random_weights, tmp_path, monkeypatch):
    model, tokenizer = artifacts.load_model(random_weights("numbers")[0])
    own = type("Own", (POOLINGS[model.config.pooling],), {"__module__": __name__})
    monkeypatch.setitem(POOLINGS, model.config.pooling, own)
    artifacts.save_model(model.config, model.state_dict(), tokenizer, tmp_path / "own")
    assert not list((tmp_path / "own").glob("*.py"))
    assert "auto_map" not in json.loads((tmp_path / "own" / "config.json").read_text())


def test_an_earlier_versions_outputs_are_what_they_were(random_weights):
    model, _ = artifacts.load_model(random_weights("numbers")[0])
    del model.config.task["loss"]
    logits = torch.randn(2, 1)
    torch.testing.assert_close(scores(model.config, logits), logits, rtol=0, atol=0)
