"""What LIT is given: datasets and models whose fields follow from the task, a known one or not."""

import numpy as np
import pandas as pd
import pytest
import torch
from lit_nlp.api import types
from lit_nlp.lib import validation

from tests.lit.conftest import HELD_OUT, MODEL, SCORE, predict, text_of
from utils.explain.explainer import Explainer
from utils.lit.run import start
from utils.lit.spec import RegressionView, View, make_view
from utils.lit.wrappers import FoldModel, TextDataset
from utils.modeling.heads import HeadConfig
from utils.modeling.model import TextModel, TextModelConfig
from utils.runs import artifacts
from utils.runs.run import Run
from utils.tasks import Task


def test_five_models_stand_beside_five_datasets(lit, trained):
    info = lit.ask("get_info")
    folds = [f"fold {fold} · averaged" for fold in range(5)]
    assert list(info["models"]) == ["out of fold · averaged", *folds]
    for about in map(info["models"].get, folds):
        assert [name for name in about["datasets"] if name[0] != "_"] == [
            "out of fold",
            *(f"fold {fold} held out" for fold in range(5)),
        ]
        assert {"umap", "pca", "tsne", "LIME", "tcav", "nearest neighbors", "Salience Clustering"} <= set(
            about["interpreters"]
        )
        assert about["generators"] == ["Ablation Flip", "HotFlip", "Word Replacer", "Scrambler"]
    for fold in range(5):
        dataset, model = f"fold {fold} held out", f"fold {fold} · averaged"
        rows = lit.ask("get_dataset", dataset_name=dataset)
        assert len(rows) == 24
        written = trained.predictions.set_index("id")["averaged"]
        scores = [row[SCORE] for row in predict(lit, rows, SCORE, model, dataset)]
        np.testing.assert_allclose(scores, written[[row["data"]["id"] for row in rows]], atol=1e-5)
    others = [row[SCORE] for row in predict(lit, rows, SCORE, "fold 1 · averaged", dataset)]
    assert np.abs(np.subtract(scores, others)).max() > 0.01


def test_the_rows_are_the_tables(rows, trained):
    table = trained.table.set_index("id")
    for row in rows:
        original = table.loc[row["data"]["id"]]
        assert text_of(row) == original["excerpt"]
        assert row["data"]["target"] == pytest.approx(original["target"])
        assert row["data"]["standard_error"] == pytest.approx(float(original["standard_error"]))
        assert (row["data"]["fold"], row["data"]["topic"]) == ("0", original["topic"])
        assert row["data"]["band"] == ("higher" if original["target"] > table["target"].median() else "lower")


def test_lits_own_validation_passes(trained, explainer):
    """Except for the gradients for TCAV: LIT's validation wants tokens where its TCAV wants a class."""
    view = RegressionView(trained.task, 0, middle=-1.0)
    dataset = TextDataset(trained.table.head(4), view)
    validation.validate_dataset(dataset, report_all=True)
    model = FoldModel(explainer, view)
    spec = {
        name: field for name, field in model.output_spec().items() if not isinstance(field, types.Gradients)
    }
    model.output_spec = lambda: spec
    validation.validate_model(model, dataset, report_all=True)


def test_columns_that_lit_cannot_show_are_left_out(trained):
    table = trained.table.head(6).assign(
        standard_error=["0.1", ""] * 3, note=[None, "a"] * 3, band="mine", link="x"
    )
    dataset = TextDataset(table, RegressionView(trained.task, 0, middle=-1.0))
    assert list(dataset.spec()) == [
        "excerpt",
        "id",
        "target",
        "band",
        "number of words",
        "topic",
        "level",
        "suitable",
        "fold",
        "note",
    ]
    assert [row["number of words"] for row in dataset.examples] == table[
        "excerpt"
    ].str.split().str.len().tolist()
    assert {row["note"] for row in dataset.examples} == {"", "a"}
    validation.validate_dataset(dataset, report_all=True)


def test_an_edited_text_is_read_anew(lit, rows, explainer):
    changed = dict(rows[0]["data"], excerpt="A cat sat on\na mat.", _id="")
    (row,) = lit.ask(
        "annotate_new_data", {"inputs": [{"data": changed, "id": "", "meta": {}}]}, dataset_name=HELD_OUT
    )
    assert row["id"] not in {other["id"] for other in rows}
    (prediction,) = predict(lit, [row], f"{SCORE},tokens")
    assert prediction[SCORE] == pytest.approx(explainer.scores(["A cat sat on a mat."])[0, 0], abs=1e-5)
    assert "".join(prediction["tokens"]).replace("##", "") == "acatsatonamat."


# --- a task that LIT's spec has never heard of -------------------------------------------------------------


class Labels(Task):
    """One of two labels, explained by its log-odds."""

    def __init__(self, config):
        super().__init__(config)
        self.outputs = ("short", "long")

    def explained(self, logits, output):
        return logits[:, output] - logits[:, 1 - output]


@pytest.fixture
def labelled(trained, tmp_path):
    """A run of that task, with one untrained fold."""
    model, tokenizer = artifacts.load_model(trained.folders[0] / "averaged")
    torch.manual_seed(0)
    head = HeadConfig(Labels(trained.config).outputs)
    config = TextModelConfig(encoder=model.config.encoder, pooling="mean_layers", head=head)
    artifacts.save_model(config, TextModel(config).state_dict(), tokenizer, tmp_path / "averaged")
    table = trained.table.assign(target=np.where(trained.table["target"] > 0, "short", "long"))
    predictions = pd.DataFrame({"id": table["id"], "averaged": 0.0})
    return Run(trained.config, Labels(trained.config), {0: tmp_path}, table, predictions)


def test_a_task_without_a_view_is_shown_by_its_outputs(labelled, alone):
    lit = start(labelled, texts=6, target="long")
    (about,) = lit.ask("get_info")["models"].values()
    assert "tcav" not in about["interpreters"]
    rows = lit.ask("get_dataset", dataset_name=HELD_OUT)
    assert {row["data"]["target"] for row in rows} <= {"short", "long"}
    predictions = predict(lit, rows, "predicted short,predicted long")
    explainer = Explainer(labelled.folders[0] / "averaged", labelled.task, output=1)
    scores = explainer.scores([text_of(row) for row in rows])
    for number, name in enumerate(("predicted short", "predicted long")):
        np.testing.assert_allclose([row[name] for row in predictions], scores[:, number], atol=1e-5)
    np.testing.assert_allclose(scores[:, 0], -scores[:, 1])
    assert np.abs(scores).max() > 1e-3

    ((tokens, values),) = lit.salience("Integrated Gradients", MODEL, HELD_OUT, rows[:1], Normalize=False)
    masked = explainer.read([text_of(rows[0])], [np.zeros((len(tokens), 1))])[0].scores[1]
    assert values.sum() == pytest.approx(scores[0, 1] - masked, rel=0.02, abs=1e-4)
    reading = explainer.read([text_of(rows[0])])[0]
    ((_, norms),) = lit.salience("Grad L2 Norm", MODEL, HELD_OUT, rows[:1])
    expected = np.linalg.norm(reading.gradients, axis=1)
    np.testing.assert_allclose(norms, expected / expected.max(), atol=1e-4)
    for method in ("LIME", "Attention"):
        ((_, values),) = lit.salience(method, MODEL, HELD_OUT, rows[:1])
        assert np.abs(values).max() == pytest.approx(1)
    fields = {"Fields to scramble": ["excerpt"]}
    assert lit.generate("Scrambler", MODEL, HELD_OUT, rows[:1], **fields)[0]


def test_lits_own_validation_passes_for_it_too(labelled):
    view = make_view(labelled.task, 1, labelled.table)
    assert type(view) is View
    dataset = TextDataset(labelled.table.head(4), view)
    assert "band" not in dataset.spec()
    model = FoldModel(Explainer(labelled.folders[0] / "averaged", labelled.task, 1), view)
    validation.validate_dataset(dataset, report_all=True)
    validation.validate_model(model, dataset, report_all=True)


def test_a_richer_view_can_be_registered_from_outside(labelled):
    class Graded(Labels):
        pass

    class GradedView(View):
        def dataset_fields(self):
            return {"words": types.Scalar()}

        def dataset_values(self, table):
            return table[[]].assign(words=table["excerpt"].str.split().str.len())

    @make_view.register
    def _(task: Graded, output: int, table: pd.DataFrame) -> View:
        return GradedView(task, output)

    dataset = TextDataset(labelled.table, make_view(Graded(labelled.config), 0, labelled.table))
    words = labelled.table["excerpt"].str.split().str.len()
    assert [row["words"] for row in dataset.examples] == words.tolist()
    assert type(make_view(labelled.task, 0, labelled.table)) is View
