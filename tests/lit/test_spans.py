"""What LIT shows of answer spans: gradients of start and end, and the best span in the text."""

import numpy as np
import pytest
from lit_nlp.lib import validation

from tests.tasks.questions import make_questions
from utils import predict
from utils.config import Config
from utils.explain.explainer import Explainer
from utils.lit.questions import HeldOut
from utils.lit.run import dataset_name, model_name, start, stop
from utils.lit.spec import make_view
from utils.lit.wrappers import FoldModel, TextDataset
from utils.runs.fold import fit_fold
from utils.runs.run import open_run
from utils.tasks import add_folds, load_table


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    """A run with one trained fold."""
    path = tmp_path_factory.mktemp("answers")
    make_questions().to_csv(path / "train.csv", index=False)
    options = {"data": str(path / "train.csv"), "output_dir": str(path / "output"), "encoder": "tiny"}
    options |= {
        "n_folds": 2,
        "epochs": 2,
        "swa_start": 0,
        "swa_every": 1,
        "lr": 1e-3,
        "max_length": 64,
        "precision": "fp32",
    }
    config = Config.make("questions", **options)
    fit_fold(config, add_folds(load_table(config), config))
    return open_run(config)


@pytest.fixture(scope="module")
def pairs(answered):
    rows = answered.table.head(3)
    return list(zip(rows["_context"], rows["question"], strict=True))


@pytest.mark.parametrize("output", [0, 1])
def test_the_gradient_is_of_the_best_spans_start_or_end(answered, pairs, output):
    explainer = Explainer(answered.folders[0] / "last", answered.task, output)
    readings = explainer.read(pairs)
    scores = explainer.scores(pairs)
    predicted = predict(answered.folders[0] / "last", answered.table.head(3)[["question", "context", "id"]])
    np.testing.assert_allclose(scores.sum(axis=1), predicted["score"], atol=1e-4)
    for reading, row, pair in zip(readings, scores, pairs, strict=True):
        np.testing.assert_allclose(reading.scores, row, atol=1e-5)
        clean = " ".join(pair[0].split())
        shown = [clean[slice(*span)] for span in reading.spans]
        assert "".join(shown).replace(" ", "") == clean.replace(" ", ""), (
            "tokens of the question are among them"
        )
        assert reading.logits.shape == (len(reading.tokens), 2)
        assert np.abs(reading.gradients).max() > 0
        # A small step along the gradient changes the score as it says.
        step = 1e-3 * reading.gradients / np.linalg.norm(reading.gradients)
        (moved,) = explainer.read([pair], [reading.embeddings + step])
        expected = 1e-3 * np.linalg.norm(reading.gradients)
        assert moved.scores[output] - reading.scores[output] == pytest.approx(expected, rel=0.1)


def test_the_view_marks_the_predicted_answer(answered):
    view = make_view(answered.task, 0, answered.table)
    model = FoldModel(Explainer(answered.folders[0] / "last", answered.task), view)
    dataset = TextDataset(answered.table, view)
    assert {"question", "answer", "title", "fold"} <= set(dataset.spec())
    assert not any(name.startswith("_") for name in dataset.spec())
    rows = dataset.examples[:3]
    validation.validate_dataset(dataset, report_all=True)
    table = answered.table.head(3)[["question", "context", "id"]]
    for output, answer in zip(
        model.predict(rows), predict(answered.folders[0] / "last", table).itertuples(), strict=True
    ):
        (span,) = output["predicted span"]
        assert output["predicted text"]
        assert "".join(output["tokens"][span.start : span.end]).replace("##", "") == output[
            "predicted text"
        ].lower().replace(" ", "")
        if answer.start >= 0:
            assert output["predicted text"] == " ".join(answer.answer.split())


@pytest.mark.full
def test_a_server_answers_for_questions(answered, monkeypatch):
    monkeypatch.setattr("utils.lit.run._current", {})
    lit = start(answered, weights="averaged", texts=4, target="end")
    model, held_out = model_name(0, "averaged"), dataset_name(0)
    try:
        rows = lit.ask("get_dataset", dataset_name=held_out)
        (tokens, values), *_ = lit.salience("Integrated Gradients", model, held_out, rows[:1])
        assert len(tokens) == len(values)
        assert np.abs(values).max() > 0
        edited = dict(rows[0]["data"], question="Who else?", _id="")
        request = {"inputs": [{"data": edited, "id": "", "meta": {}}]}
        (row,) = lit.ask("annotate_new_data", request, dataset_name=held_out)
        scores = [
            lit.ask(
                "get_preds",
                {"inputs": [one]},
                model=model,
                dataset_name=held_out,
                requested_fields="predicted end,predicted span",
            )[0]
            for one in (rows[0], row)
        ]
        assert scores[0]["predicted end"] != scores[1]["predicted end"], "the question is not read"
        assert scores[0]["predicted span"]
        assert row["data"]["question"] == "Who else?"
        assert row["data"]["answer"] == "", "the answer to another question"
        asked = HeldOut(lit, answered, target="end")
        assert asked.score_of(asked.rows[0]) == pytest.approx(scores[0]["predicted end"], abs=1e-5)
        (sums,) = asked.completeness(asked.rows[:1]).itertuples(index=False)
        assert sums[0] - sums[1] == pytest.approx(sums[2])
        edits = asked.edits("Scrambler", asked.rows[0])
        assert edits
        assert edits[0]["score before"] != edits[0]["score after"]
        asked.edits("HotFlip", asked.rows[0], **{"Regression threshold": "1000"})  # never crossed: no edits
        (words, values), *_ = asked.words("LIME", asked.rows[:1])
        assert len(words) == len(values)
    finally:
        stop()
