"""The span task from training to submission, with a tiny random encoder."""

import re

import numpy as np
import pandas as pd
import pytest
import torch

from tests.runs.helpers import Stop, assert_same, stop_after
from tests.tasks.questions import make_questions
from utils import predict
from utils.config import Config, InputError
from utils.data import tokens
from utils.machine import runtime
from utils.reporting import fold as fold_report
from utils.reporting import run as run_report
from utils.runs import artifacts, submission
from utils.runs.compare import compare_weights, verdict
from utils.runs.fold import fit_fold
from utils.runs.run import open_run
from utils.runs.thresholds import FLATTERING, NESTED, USUAL, compare_cuts
from utils.tasks import add_folds, find_leaks, load_table, make_task
from utils.training.loop import train_epoch
from utils.training.predict import decode, predict_batches
from utils.training.setup import prepare


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where train.csv, test.csv and what is trained lie, for all tests of this module."""
    path = tmp_path_factory.mktemp("spans")
    make_questions(12).to_csv(path / "train.csv", index=False)
    make_questions(3).drop(columns=["answer", "start"]).to_csv(path / "test.csv", index=False)
    sample = {"id": make_questions(3)["id"][::-1], "answer": ""}
    pd.DataFrame(sample).to_csv(path / "sample_submission.csv", index=False)
    return path


def test_questions_on_one_text_are_told_of_only_where_folds_part_them():
    whole = Config.make("questions")
    assert find_leaks(add_folds(load_table(whole), whole), make_task(whole)) == ""
    parted = Config.make("questions", fold_by="kfold", group_column="")
    said = find_leaks(add_folds(load_table(parted), parted), make_task(parted))
    assert re.search(
        r"Near-copies .* lie in several folds, and scores flatter: near_copies=group keeps", said
    )


@pytest.fixture
def config(folder, monkeypatch):
    monkeypatch.setattr(runtime, "workspace", lambda: folder)
    options = {
        "data": str(folder / "train.csv"),
        "encoder": "tiny",
        "max_length": 32,
        "stride": 8,
        "n_folds": 2,
        "epochs": 5,
        "swa_start": 2.0,
        "swa_every": 3,
        "eval_every": 6,
        "lr": 3e-3,
        "head_lr_factor": 1.0,
        "head_dropout": 0.1,
        "precision": "fp32",
        "output_dir": str(folder / "output"),
    }
    return lambda **overrides: Config.make("questions", **{**options, **overrides})


@pytest.fixture
def table(config):
    return add_folds(load_table(config()), config())


@pytest.fixture
def run(config, table):
    """Both folds; trained by the first test that asks for them."""
    for fold in (0, 1):
        fit_fold(config(fold=fold), table)
    return open_run(config())


def test_it_learns_and_keeps_what_it_predicts(run, table):
    folder = run.folders[0]
    history, result = pd.read_csv(folder / "history.csv"), artifacts.read_result(folder)
    assert history["train_loss"].iloc[-1] < 0.9 * history["train_loss"].iloc[0]
    assert result["scores"]["best"]["f1"] == history["f1"].max()
    assert set(result["baselines"]) == {"no answer", "sentence with most words in common"}
    written = artifacts.read_predictions(folder).set_index("id")
    written["last answer"] = written["last answer"].fillna("")
    contexts = table.set_index("id")["_context"]
    for name, row in written.iterrows():
        answer = contexts[name][int(row["last start"]) : int(row["last stop"])]
        assert row["last answer"] == ("" if row["last no answer"] > 0 else answer)
        assert answer


@pytest.mark.full
def test_a_tiny_encoder_learns_where_the_answers_stand(config, table):
    settings = config(max_length=48, epochs=30, lr=5e-3, averaging="none", head_dropout=0.0, batch_size=8)
    training = prepare(settings, table, 0)
    for epoch in range(30):
        for _ in train_epoch(training, epoch):
            pass
    rows, task = table[table["fold"] != 0], training.task
    predictions = decode(task, training.train, everything(training, training.train, batch_size=64))
    assert task.score(task.targets(rows), predictions) > 0.9


def test_windows_are_joined_and_no_span_is_longer_than_permitted(config, table):
    training = prepare(config(max_answer_tokens=3), table, 0)
    examples = training.held_out
    assert len(examples) > len(examples.ids)
    predictions = decode(training.task, examples, everything(training, examples, batch_size=64))
    assert predictions.shape == (len(examples.ids), 4)
    lengths = [
        len(training.tokenizer.tokenize(text))
        for text in training.task.texts(examples.ids, predictions[:, :2])
    ]
    assert 1 <= min(lengths) <= max(lengths) <= 3
    alone = decode(training.task, examples, everything(training, examples, batch_size=1))
    np.testing.assert_allclose(predictions, alone, atol=1e-5)


def test_a_model_that_knows_the_answers_gives_them_back(config, table):
    """From tokens and windows to the text as it was given; and to no answer where there is none."""
    training = prepare(config(), table, 0)
    examples, task = training.held_out, training.task
    outputs = [np.zeros((length, 2)) for length in examples.lengths]
    for logits, positions in zip(outputs, examples.targets.astype(int), strict=True):
        logits[positions, [0, 1]] = 9.0
    scores = task.scores(training.targets, task.decode(outputs, examples))
    assert scores == dict.fromkeys(scores, 1.0)


def everything(training, examples, batch_size):
    batches = tokens.evaluation_batches(examples.lengths, batch_size)
    return predict_batches(training.model, examples, batches, training.tokenizer, torch.device("cpu"))


def test_the_loss_sees_no_token_of_question_or_padding(config, table):
    """However sure the model is of them, they change nothing, on whichever side padding stands."""
    training = prepare(config(), table, 0)
    for side in ("right", "left"):
        training.tokenizer.padding_side = side
        numbers = list(range(8))
        batch = next(iter(tokens.make_loader(training.train, [numbers], training.tokenizer)))
        mask = batch.inputs["attention_mask"]
        assert not mask.all()
        first = mask.argmax(dim=1)
        outside = batch.extras["stop"] == 0
        outside[torch.arange(8), first] = False
        logits = torch.randn(*mask.shape, 2, generator=torch.Generator().manual_seed(0))
        loss = training.task.statistics({"logits": logits}, batch)
        assert loss.isfinite().all()
        torch.testing.assert_close(
            training.task.statistics({"logits": logits + 1e4 * outside.unsqueeze(-1)}, batch), loss
        )
        # The targets are where the answers are: a model that knows them has no loss.
        positions = (batch.targets + first.unsqueeze(1)).long()
        known = torch.zeros_like(logits).scatter_(1, positions.unsqueeze(1), 100.0)
        assert training.task.statistics({"logits": known}, batch) < 1e-3
        found = batch.extras["start"][torch.arange(8), positions[:, 0]]
        assert found.max() > 0


@pytest.mark.full
def test_it_resumes_bit_identically(config, table, run, monkeypatch):
    restore = stop_after(7, monkeypatch)
    with pytest.raises(Stop):
        fit_fold(config(run="interrupted", save_every=1), table)
    restore()
    assert_same(run.folders[0], fit_fold(config(run="interrupted", save_every=1), table))


def test_it_is_compared_plotted_and_submitted(config, run, folder):
    comparison = compare_weights(run)
    assert comparison["score"].between(0, 1).all()
    assert (comparison["low"] <= comparison["high"]).all()
    assert "the F1 of the averaged weights" in verdict(comparison, run.task.metric)
    assert run_report.plot_weights(comparison, run.task.metric).axes[0].get_title() == "Held-out F1"
    assert "f1_answered" in fold_report.scores_table(run.folders[0]).columns.str.replace(" ", "_").tolist()
    cuts = compare_cuts(run, "averaged").set_index("cuts")["score"]
    assert cuts[FLATTERING] >= cuts[USUAL]
    assert 0 <= cuts[NESTED] <= cuts[FLATTERING]

    test = submission.load_test(config())
    predictions = submission.predict_test(run, test, ["averaged", "last"])
    assert set(submission.compare_ensembles(run, ["averaged", "last"])["ensemble"]) == {
        "averaged",
        "last",
        "mean",
        "stacked",
    }
    contexts = dict(zip(test["id"], test["_context"], strict=True))
    for ensemble in ("last", "mean", "stacked"):
        combined = submission.combine(run, predictions, ensemble)
        path = submission.write_submission(test, combined, run.task, folder)
        answers = pd.read_csv(path, keep_default_na=False).set_index("id")["answer"]
        assert answers.index.tolist() == test["id"].tolist()[::-1], "not in the sample's order"
        assert all(answer in contexts[name] for name, answer in answers.items())


def test_the_cut_for_no_answer_is_where_the_fitted_ensemble_has_its_zero(run):
    values, targets = run.values("last"), run.targets
    (cut,) = run.task.fit_cuts(targets, values)
    moved = run.task.stack(values[None], targets)(values[None])
    np.testing.assert_array_equal(run.task.predicted(moved), run.task.predicted(values, [cut]))
    assert run.task.score(targets, moved) >= run.task.score(targets, values)


def test_a_folder_of_weights_answers_new_questions(run):
    weights = artifacts.weights_folder(run.folders[0], "averaged")
    rows = make_questions(2)[["question", "context"]]
    answers = predict(weights, rows)
    assert answers["id"].tolist() == [str(i) for i in range(6)]
    for answer, context in zip(answers.itertuples(), rows["context"], strict=True):
        assert answer.answer == (context[answer.start : answer.stop] if answer.start >= 0 else "")
    alone = predict(weights, rows.iloc[[3]])
    assert alone["answer"][0] == answers["answer"][3], "an answer depends on the other questions"
    renamed = predict(weights, rows.rename(columns={"context": "passage"}), text_column="passage")
    assert renamed.equals(answers)
    with pytest.raises(
        InputError, match=r"this model reads pairs \(context, question\), and .a text alone. is none"
    ):
        predict(weights, ["a text alone"])


def test_a_model_that_never_saw_a_missing_answer_always_answers(config, folder):
    table = make_questions(12)
    table[table["answer"] != ""].to_csv(folder / "answered.csv", index=False)
    settings = config(data=str(folder / "answered.csv"), run="answered", epochs=1, swa_start=0.0, swa_every=1)
    trained = fit_fold(settings, add_folds(load_table(settings), settings))
    assert set(artifacts.read_result(trained)["scores"]["last"]) == {"f1", "exact_match"}
    assert (predict(trained / "last", make_questions(2)[["question", "context"]])["answer"] != "").all()
    read = load_table(settings)
    assert (
        make_task(settings, read).stack(np.zeros((1, len(read), 4)), make_task(settings, read).targets(read))
        is None
    )
