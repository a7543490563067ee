"""Labels and grades in LIT: what is shown, compared with the truth, explained and edited."""

import functools

import numpy as np
import pytest
import torch
from lit_nlp.api import types
from lit_nlp.lib import validation
from sklearn.metrics import accuracy_score, roc_auc_score

from tests.lit.conftest import HELD_OUT, MODEL, predict, text_of
from tests.lit.label_runs import KINDS, MORE, random_run
from utils.config import InputError
from utils.explain.explainer import Explainer
from utils.lit.questions import HeldOut
from utils.lit.run import output_number, start
from utils.lit.spec import make_view
from utils.lit.wrappers import FoldModel, TextDataset

SIGNED = ("Grad ⋅ Input", "Integrated Gradients", "LIME")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Makes the run of a kind, once."""
    return functools.cache(lambda kind: random_run(kind, tmp_path_factory.mktemp("labels")))


@pytest.fixture(scope="module")
def opened(runs):
    """Makes a HeldOut of a kind's run, once, with 14 texts and a server of its own."""
    servers = []

    @functools.cache
    def open_kind(kind, target=""):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("utils.lit.run._current", {})
            servers.append(start(runs(kind), texts=14, target=target))
        return HeldOut(servers[-1], runs(kind), target=target)

    yield open_kind
    for server in servers:
        server.stop()


@pytest.fixture(params=[pytest.param(kind, marks=[pytest.mark.full] * (kind in MORE)) for kind in KINDS])
def kind(request):
    return request.param


def chosen(quantity, **settings):
    """The settings by which the page asks for a quantity."""
    return {"_salience_target": {"field": quantity[0], "index": quantity[1]}, **settings}


def numbers(held_out, quantity, texts, embeddings=None):
    """A quantity of some texts, or of what stands in place of their embeddings."""
    readings = held_out.explainer.read(texts, embeddings)
    logits = torch.from_numpy(np.stack([one.logits for one in readings]))
    return held_out.view.quantities[quantity](logits).numpy()


def test_probabilities_are_those_of_the_task_and_the_truth_is_the_tables(opened, kind):
    held_out = opened(kind)
    task, view = held_out.run.task, held_out.view
    table = held_out.run.table.set_index("id").loc[held_out.ids].reset_index()
    recorded = task.values(held_out.run.predictions.set_index("id").loc[held_out.ids], "averaged")
    answers = predict(held_out.lit, held_out.rows, ",".join(view.outputs()))
    for number, (field, part) in enumerate(zip(view.fields, task.by_target(recorded), strict=True)):
        np.testing.assert_allclose(
            [answer[field] for answer in answers], part, atol=1e-3
        )  # the head multiplies rounding
        target = view.targets[number]
        assert [row["data"][target] for row in held_out.rows] == table[target].tolist()
        assert held_out.lit.ask("get_info")["datasets"][HELD_OUT]["spec"][target]["vocab"][-1] == ""
    assert held_out.compare_scores()["difference"].abs().max() < 1e-3
    assert held_out.scores.std() > 1e-3
    assert all(held_out.caption(row) for row in held_out.rows)


def test_lits_own_validation_passes(runs, kind):
    run = runs(kind)
    view = make_view(run.task, output_number(run.task, ""), run.table)
    dataset = TextDataset(run.table.head(4), view)
    model = FoldModel(Explainer(run.folders[0] / "averaged", run.task), view)
    spec = {n: field for n, field in model.output_spec().items() if not isinstance(field, types.Gradients)}
    model.output_spec = lambda: spec
    validation.validate_dataset(dataset, report_all=True)
    validation.validate_model(model, dataset, report_all=True)


def test_metrics_and_results_are_of_the_texts_whose_label_is_known(opened, kind):
    """The predicted class is the task's, and a text without a label is neither wrong nor counted."""
    held_out = opened(kind)
    lit, task, view = held_out.lit, held_out.run.task, held_out.view
    new = {"data": dict(held_out.rows[0]["data"], excerpt="A cat sat.", _id=""), "id": "", "meta": {}}
    (new,) = lit.ask("annotate_new_data", {"inputs": [new]}, dataset_name=HELD_OUT)
    recorded = held_out.run.predictions.set_index("id").loc[held_out.ids]
    predicted = task.names_of(task.predicted(task.values(recorded, "averaged")))
    body = {"inputs": [*held_out.rows, new]}
    metrics = lit.ask("get_metrics", body, model=MODEL, dataset_name=HELD_OUT)["classification"]
    results = lit.interpret("classification", MODEL, HELD_OUT, body["inputs"])
    for number, (field, target) in enumerate(zip(view.fields, view.targets, strict=True)):
        truth = np.array([row["data"][target] for row in held_out.rows])
        (scores,) = (each["metrics"] for each in metrics if each["pred_key"] == field)
        assert scores["accuracy"] == pytest.approx(accuracy_score(truth, predicted[:, number]))
        shown = [result[field] for result in results]
        assert [one["predicted_class"] for one in shown[:-1]] == predicted[:, number].tolist()
        assert [one["correct"] for one in shown] == [*(truth == predicted[:, number]).tolist(), None]
        if task.sizes[number] == 2:
            positive = task.by_target(task.values(recorded, "averaged"))[number][:, 1]
            expected = roc_auc_score(truth == task.labels[number][1], positive)
            assert scores["auc"] == pytest.approx(expected)
    table = held_out.metric_table()
    assert np.isfinite(table.loc[MODEL, HELD_OUT])
    if view.ordered:
        errors = held_out.scores - held_out.targets
        assert table.loc[MODEL, HELD_OUT] == pytest.approx(np.sqrt((errors**2).mean()), rel=1e-5)
        assert lit.interpret("regression", MODEL, HELD_OUT, [new])[0][view.score]["error"] is None


def test_gradients_are_the_slopes_of_what_is_chosen(opened, kind):
    """By finite differences, of every class of every target."""
    held_out = opened(kind)
    explainer, text = held_out.explainer, held_out.text(held_out.rows[0])
    explainer.model.double()
    one = explainer.read([text])[0]
    direction = np.random.default_rng(0).normal(size=one.embeddings.shape).astype(np.float32)
    moved = [one.embeddings + step * direction for step in (1e-4, -1e-4)]
    for quantity, explained in held_out.view.quantities.items():
        gradients = explainer.read([text], explained=[explained])[0].gradients
        up, down = (numbers(held_out, quantity, [text], [embeddings])[0] for embeddings in moved)
        assert (up - down) / 2e-4 == pytest.approx((gradients * direction).sum(), rel=1e-3, abs=1e-3)
    explainer.model.float()


def test_all_methods_explain_what_is_chosen(opened, kind):
    """Integrated gradients add up to it, LIME's and the gradients' signs agree with them."""
    held_out = opened(kind)
    lit, text, found = held_out.lit, "The old harbour slept while rain fell on the boats.", {}
    row = {"data": held_out.rows[0]["data"] | {"excerpt": text, "_id": ""}, "id": "", "meta": {}}
    for quantity in list(held_out.view.quantities)[:4]:
        settings = chosen(quantity, Normalize=False)
        ((tokens, values),) = lit.salience("Integrated Gradients", MODEL, HELD_OUT, [row], **settings)
        masked = numbers(held_out, quantity, [text], [np.zeros((len(tokens), 1))])[0]
        whole, nothing = numbers(held_out, quantity, [text])[0], masked
        assert values.sum() == pytest.approx(whole - nothing, rel=0.03, abs=0.01)
        found[quantity] = [lit.salience(m, MODEL, HELD_OUT, [row], **chosen(quantity))[0][1] for m in SIGNED]
        explained = [held_out.view.quantities[quantity]]
        one = held_out.explainer.read([text], explained=explained)[0]
        expected = (one.gradients * one.embeddings).sum(axis=1)
        np.testing.assert_allclose(found[quantity][0], expected / np.abs(expected).max(), atol=1e-3)
    first = next(iter(found))
    unasked = [lit.salience(method, MODEL, HELD_OUT, [row])[0][1] for method in SIGNED]
    if first == held_out.view.chosen(None):
        for one, other in zip(unasked, found[first], strict=True):
            np.testing.assert_allclose(one, other, atol=1e-4)


def test_two_classes_are_opposites(opened):
    held_out = opened("binary")
    rows, quantities = held_out.rows[:1], [(held_out.view.score, index) for index in (0, 1)]
    for method in SIGNED:
        answers = [held_out.lit.salience(method, MODEL, HELD_OUT, rows, **chosen(one)) for one in quantities]
        no, yes = (values for ((_, values),) in answers)
        np.testing.assert_allclose(no, -yes, atol=1e-3, err_msg=method)


def test_a_label_or_a_target_is_named_to_be_explained(runs):
    task = runs("binary").task
    assert [output_number(task, name) for name in ("", "suitable", "yes", "no")] == [1, 1, 1, 0]
    with pytest.raises(InputError, match="target='maybe' is not known; choose one of: no, suitable, yes"):
        output_number(task, "maybe")
    task = runs("several targets").task
    names = ("", "kind", "level", "kind hard", "level 4")
    assert [task.outputs[output_number(task, name)] for name in names] == [
        "kind easy", "kind easy", "level 1", "kind hard", "level 4",
    ]  # fmt: skip
    assert output_number(runs("multilabel").task, "hard") == 1
    assert output_number(runs("ordinal").task, "level") == 0


def test_the_explained_class_is_the_page_s_first(opened):
    held_out = opened("several targets", "level 4")
    assert held_out.view.chosen(None) == ("predicted level", 3)
    assert next(iter(held_out.view.outputs())) == "predicted level"
    assert held_out.view.explains == "log-odds of “level 4”"
    expected = [row["data"]["level"] == "4" for row in held_out.rows]
    assert held_out.targets.tolist() == expected
    assert held_out.view.chosen({"field": "predicted kind", "index": 9}) == ("predicted kind", 0)


def test_grades_are_numbers_as_they_are_written(opened):
    held_out = opened("ordinal, as classes")  # 0.5 to 2.5
    for row, target in zip(held_out.rows, held_out.targets, strict=True):
        assert row["data"]["half as a number"] == float(row["data"]["half"]) == target
    assert ((held_out.scores > 0.5) & (held_out.scores < 2.5)).all()


def test_generated_texts_flip_the_predicted_label_and_have_no_truth(opened):
    held_out = opened("binary")
    lit, field = held_out.lit, held_out.view.score
    spec = lit.ask("get_info")["generators"]["HotFlip"]["configSpec"]
    assert spec["Prediction key"]["types"] == ["MulticlassPreds"]
    assert "Regression threshold" not in spec
    row = held_out.rows[np.argmin(np.abs(held_out.scores - 0.5))]
    for generator in ("Ablation Flip", "HotFlip"):
        edits = held_out.edits(generator, row)
        assert edits, generator
        for edit in edits:
            assert (edit["score before"] > 0.5) != (edit["score after"] > 0.5)
        fields = {"Fields to ablate": ["excerpt"], "Fields to flip tokens in": ["tokens"]}
        fields["Prediction key"] = field
        ((new, *_),) = lit.generate(generator, MODEL, HELD_OUT, [row], **fields)
        assert new["data"]["suitable"] == ""
        assert text_of(new) != text_of(row)


def test_thresholds_and_curves(opened):
    """A text without a label is no negative one."""
    held_out = opened("binary")
    new = {"data": held_out.rows[0]["data"] | {"excerpt": "A cat sat.", "suitable": ""}, "meta": {}}
    new |= {"id": new["data"]["_id"]}
    settings = {"Label": "yes", "Prediction field": held_out.view.score}
    for method, options in {"thresholder": {}, "curves": settings}.items():
        answers = [
            held_out.lit.interpret(method, MODEL, HELD_OUT, rows, **options)
            for rows in (held_out.rows, [*held_out.rows, new])
        ]
        assert answers[0] == answers[1], method
    assert answers[0]["roc_data"][-1] == [1, 1]


@pytest.mark.parametrize("kind", ["binary", "ordinal"])
def test_tcav_asks_about_the_predicted_class(opened, kind):
    held_out = opened(kind)
    answers = predict(held_out.lit, held_out.rows, "predicted class")
    classes = [answer["predicted class"] for answer in answers]
    concept = [row["id"] for row in held_out.rows[:6]]
    settings = {"class_to_explain": classes[0], "grad_layer": "pooled gradient", "concept_set_ids": concept}
    settings["dataset_name"] = HELD_OUT
    (result,) = held_out.lit.interpret("tcav", MODEL, HELD_OUT, held_out.rows, **settings)
    assert 0 <= result["result"]["score"] <= 1
