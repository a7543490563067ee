"""Pairs in LIT: read as in training, with the tokens of the first text shown."""

from dataclasses import replace

import numpy as np
import pytest

from utils import Config, add_folds, fit_fold, load_table, open_run
from utils.data.tokens import make_loader
from utils.explain.explainer import Explainer
from utils.lit.new_texts import NewTexts
from utils.lit.spec import make_view
from utils.lit.wrappers import FoldModel, TextDataset
from utils.machine import runtime

pytestmark = pytest.mark.full


@pytest.fixture(scope="module", params=["mean_layers", "lcf_cdw", "lsa", "lcf_cdw_two_passes"])
def run(request, tmp_path_factory):
    """A fold of aspects, with a window and without."""
    workspace = tmp_path_factory.mktemp("workspace")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime, "workspace", lambda: workspace)
        options = {"encoder": "tiny", "precision": "fp32", "epochs": 1, "swa_start": 0.4, "swa_every": 1}
        config = Config.make("aspects", max_rows=100, pooling=request.param, **options)
        fit_fold(config, add_folds(load_table(config), config))
        yield open_run(config)


@pytest.fixture(scope="module")
def model(run):
    return FoldModel(Explainer(run.folders[0] / "averaged", run.task), make_view(run.task, 0, run.table))


@pytest.fixture(scope="module")
def rows(run):
    """Held-out rows as LIT has them, but for those whose aspect occurs twice: LIT knows no places."""
    once = [
        text.count(aspect) == 1 for text, aspect in zip(run.table["text"], run.table["aspect"], strict=True)
    ]
    table = run.table[np.array(once) & (run.table["fold"] == 0)]
    return TextDataset(table, make_view(run.task, 0, run.table)).examples


def test_pairs_have_the_scores_of_the_fold(run, model, rows):
    config, task = run.config, run.task
    recorded = run.predictions.set_index("id").loc[[row["id"] for row in rows]]
    shares = task.values(recorded, "averaged")[:, 0]
    readings = model.explainer.read([(row[config.text_column], row[config.pair_column]) for row in rows])
    logits = np.array([reading.scores[0] for reading in readings])
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), shares, atol=1e-4)


def test_tokens_are_those_of_the_sentence(run, model, rows):
    pairs = [(row["text"], row["aspect"]) for row in rows[:4]]
    for (text, _), encoded in zip(pairs, model.explainer.encode(pairs).spans, strict=True):
        assert "".join(text[start:end] for start, end in encoded) == text.replace(" ", "")
    both = model.explainer.encode(pairs).positions
    alone = model.explainer.encode([text for text, _ in pairs]).positions
    assert [len(row) for row in both] == [len(row) for row in alone]


def test_lit_may_change_either_text(model, rows):
    assert {"text", "aspect"} <= set(model.input_spec())
    other = rows[0] | {"aspect": "sea"}
    answers = list(model.predict([rows[0], other]))
    score = model.view.score
    assert not np.allclose(answers[0][score], answers[1][score])
    assert len(answers[0]["tokens"]) == len(answers[1]["tokens"])


def test_extras_are_those_of_training(run, model, rows):
    if not model.explainer.model.pooling.extras:
        return
    table = run.table.set_index("id").loc[[row["id"] for row in rows]].reset_index()
    task = type(run.task)(replace(run.config))
    task.see(run.table)
    examples = task.encode(table, model.explainer.tokenizer)
    batch = next(iter(make_loader(examples, [list(range(len(rows)))], model.explainer.tokenizer)))
    given = model.explainer.encode([(row["text"], row["aspect"]) for row in rows]).extras["distance"]
    width = given.shape[1]
    assert (batch.extras["distance"][:, :width] == given.cpu()).all()


def test_another_aspect_has_no_truth_of_its_rows(run):
    view = make_view(run.task, 0, run.table)
    dataset = TextDataset(run.table, view)
    annotator = NewTexts([dataset], view)
    (truth, *_) = view.dataset_fields()
    same, other = dict(dataset.examples[0]), dataset.examples[0] | {"aspect": "sea"}
    annotator.annotate([same, other], dataset)
    assert same[truth] == dataset.examples[0][truth] != ""
    assert other[truth] == ""
