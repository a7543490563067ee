"""LIT's components, asked over HTTP: their numbers are checked against plain references."""

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA

from tests.lit.conftest import HELD_OUT, MODEL, SCORE, predict, text_of
from utils.lit.tsne import TSNEModel
from utils.lit.wrappers import FoldModel


def test_metrics_of_all_and_of_a_slice(lit, rows, predicted):
    target = np.array([row["data"]["target"] for row in rows])
    chosen = np.array([row["data"]["band"] == "higher" for row in rows])
    for part in (np.full(len(rows), True), chosen):
        body = {"inputs": [row for row, take in zip(rows, part, strict=True) if take]}
        (answer,) = lit.ask("get_metrics", body, model=MODEL, dataset_name=HELD_OUT)["regression"]
        pair = predicted[part], target[part]
        rmse = np.sqrt(np.square(np.subtract(*pair)).mean())
        assert answer["metrics"]["rmse"] == pytest.approx(rmse, rel=1e-5)
        assert answer["metrics"]["pearsonr"] == pytest.approx(np.corrcoef(*pair)[0, 1], rel=1e-5)
        assert answer["metrics"]["spearmanr"] == pytest.approx(stats.spearmanr(*pair)[0], rel=1e-5)
    results = lit.interpret("regression", MODEL, HELD_OUT)
    errors = [result[SCORE]["error"] for result in results]
    np.testing.assert_allclose(errors, predicted - target, atol=1e-5)


def test_maps_and_neighbours(lit, rows, explainer):
    pooled = np.array([one.pooled for one in explainer.read([text_of(row) for row in rows])])
    expected = PCA(3).fit_transform(pooled)
    projected = lit.project("pca", MODEL, HELD_OUT)
    for axis in range(2):
        assert abs(np.corrcoef(expected[:, axis], projected[:, axis])[0, 1]) > 0.999
    for method in ("umap", "tsne"):
        points = lit.project(method, MODEL, HELD_OUT)
        assert points.shape == (24, 3)
        assert np.isfinite(points).all()
        assert np.ptp(points, axis=0).min() > 0
    settings = {"dataset_name": HELD_OUT, "embedding_name": "pooled", "num_neighbors": 4}
    (answer,) = lit.interpret("nearest neighbors", MODEL, HELD_OUT, rows[:1], **settings)
    nearest = np.argsort(cdist(pooled[:1], pooled)[0])[:4]
    assert [row["id"] for row in answer["nearest_neighbors"]] == [rows[i]["id"] for i in nearest]


def test_gradient_salience_fills_its_range(lit, rows, explainer):
    one = explainer.read([text_of(rows[0])])[0]
    for method, expected in (
        ("Grad L2 Norm", np.linalg.norm(one.gradients, axis=1)),
        ("Grad ⋅ Input", (one.gradients * one.embeddings).sum(axis=1)),
    ):
        ((tokens, values),) = lit.salience(method, MODEL, HELD_OUT, rows[:1])
        assert tokens == one.tokens
        np.testing.assert_allclose(values, expected / np.abs(expected).max(), atol=1e-4)
    ((_, values),) = lit.salience("Attention", MODEL, HELD_OUT, rows[:1])
    raised = one.attention - one.attention.min()
    np.testing.assert_allclose(values, raised / raised.max(), atol=1e-4)


def test_an_emptied_text_has_a_score_and_nothing_to_explain(lit, rows):
    empty = dict(rows[0]["data"], excerpt="", _id="")
    new = {"data": empty, "id": "", "meta": {}}
    (row,) = lit.ask("annotate_new_data", {"inputs": [new]}, dataset_name=HELD_OUT)
    (prediction,) = predict(lit, [row], f"{SCORE},tokens")
    assert np.isfinite(prediction[SCORE])
    assert prediction["tokens"] == []
    for method in ("Grad L2 Norm", "Grad ⋅ Input", "Integrated Gradients", "Attention"):
        ((_, values),) = lit.salience(method, MODEL, HELD_OUT, [row])
        assert not len(values)


def test_integrated_gradients_are_complete(lit, rows, explainer):
    answers = lit.salience("Integrated Gradients", MODEL, HELD_OUT, rows[:6], Normalize=False)
    for row, (tokens, values) in zip(rows[:6], answers, strict=True):
        whole = explainer.scores([text_of(row)])[0, 0]
        nothing = explainer.read([text_of(row)], [np.zeros((len(tokens), 1))])[0].scores[0]
        assert values.sum() == pytest.approx(whole - nothing, rel=0.02, abs=0.005)
    ((_, scaled),) = lit.salience("Integrated Gradients", MODEL, HELD_OUT, rows[:1])
    assert np.abs(scaled).max() == pytest.approx(1)


def test_lime_finds_what_leaving_words_out_does(lit, rows, explainer):
    row = min(rows, key=lambda row: len(text_of(row)))
    ((words, values),) = lit.salience("LIME", MODEL, HELD_OUT, [row])
    assert words == text_of(row).split()
    assert np.abs(values).max() == pytest.approx(1)
    mask = explainer.tokenizer.mask_token
    without = [" ".join([*words[:i], mask, *words[i + 1 :]]) for i in range(len(words))]
    effect = explainer.scores([text_of(row)])[0, 0] - explainer.scores(without)[:, 0]
    assert stats.spearmanr(values, effect)[0] > 0.4


def test_counterfactuals_are_new_texts_with_their_own_scores(lit, rows, predicted, explainer, trained):
    middle = int(np.argsort(predicted)[len(rows) // 2])
    row, threshold = rows[middle], predicted[middle] + 0.05
    words = text_of(row).split()
    settings = {f"Fields to {verb}": ["excerpt"] for verb in ("ablate", "replace", "scramble")}
    settings |= {"Fields to flip tokens in": ["tokens"], "Prediction key": SCORE}
    settings |= {"Regression threshold": f"{threshold:.4f}", "Substitutions": f"{words[1]} -> zebra"}
    for generator in ("Ablation Flip", "HotFlip", "Word Replacer", "Scrambler"):
        (edited,) = lit.generate(generator, MODEL, HELD_OUT, [row], **settings)
        assert edited, generator
        edited = lit.ask("annotate_new_data", {"inputs": edited}, dataset_name=HELD_OUT)  # as the page does
        ids = {new["id"] for new in edited} | {row["id"]}
        assert len(ids) == len(edited) + 1, "the cache must not answer for them"
        scores = [answer[SCORE] for answer in predict(lit, edited, SCORE)]
        expected = explainer.scores([text_of(new) for new in edited])[:, 0]
        np.testing.assert_allclose(scores, expected, atol=1e-5)
        for new, score in zip(edited, scores, strict=True):
            now = text_of(new).split()
            if generator in ("Ablation Flip", "HotFlip"):
                assert score > threshold
            if generator == "Ablation Flip":
                assert len(now) < len(words)
                assert set(now) <= set(words)
            if generator == "HotFlip":
                assert len(now) == len(words)
                assert "##" not in text_of(new)
                assert text_of(new) != text_of(row)
                known = " ".join(trained.table["excerpt"]).lower()
                assert all(word.lower().strip(".,;:") in known for word in now), "a word that no text has"
            if generator == "Word Replacer":
                assert "zebra" in text_of(new)
            if generator == "Scrambler":
                assert sorted(now) == sorted(words)


def test_an_ablation_that_finds_nothing_is_soon_done(lit, rows, predicted, monkeypatch):
    """LIT would score 600 combinations of words, one by one."""
    asked, scores = [], FoldModel.scores
    monkeypatch.setattr(FoldModel, "scores", lambda model, texts: asked.append(texts) or scores(model, texts))
    settings = {"Fields to ablate": ["excerpt"], "Prediction key": SCORE}
    for threshold in (predicted.max() + 100, predicted.min() - 100):
        settings["Regression threshold"] = f"{threshold:.3f}"
        assert lit.generate("Ablation Flip", MODEL, HELD_OUT, rows[:1], **settings) == [[]]
    assert len(asked) < 10


def test_tcav_knows_that_high_scores_come_from_what_high_texts_share(lit, rows, predicted):
    order = np.argsort(-predicted)
    settings = {"class_to_explain": "higher", "dataset_name": HELD_OUT}
    high, low = ([rows[i]["id"] for i in part] for part in (order[:8], order[-8:]))
    settings |= {"concept_set_ids": high, "grad_layer": "pooled gradient"}
    top = lit.interpret("tcav", MODEL, HELD_OUT, rows, **settings)
    settings |= {"concept_set_ids": low, "grad_layer": "layer 0 gradient"}
    bottom = lit.interpret("tcav", MODEL, HELD_OUT, rows, **settings)
    assert top[0]["result"]["score"] > 0.8 > 0.2 > bottom[0]["result"]["score"]
    assert len(top[0]["result"]["cos_sim"]) == len(rows)
    assert 0 <= top[0]["p_val"] <= 1


def test_tcav_says_when_no_text_is_of_the_band(lit, rows, predicted):
    lowest = [rows[i] for i in np.argsort(predicted)[:8]]
    settings = {"class_to_explain": "higher", "grad_layer": "pooled gradient", "dataset_name": HELD_OUT}
    settings |= {"concept_set_ids": [row["id"] for row in lowest[:4]]}
    with pytest.raises(RuntimeError, match="scores none of these texts as higher; explain another class"):
        lit.interpret("tcav", MODEL, HELD_OUT, lowest, **settings)


def test_texts_cluster_by_their_salient_words(lit, rows):
    mapper = {"Salience Mapper": "Grad ⋅ Input", "Number of clusters": 3}
    clusters = lit.interpret("Salience Clustering", MODEL, HELD_OUT, rows, **mapper)["cluster_ids"]
    assert len(clusters["token_gradients"]) == len(rows)
    assert set(clusters["token_gradients"]) == {0, 1, 2}


@pytest.mark.parametrize("count", [1, 2, 3, 4, 9])
def test_tsne_places_few_texts_and_later_ones(count):
    model, vectors = TSNEModel(n_components=3), np.random.default_rng(0).normal(size=(count, 5))
    places = [one["z"] for one in model.fit_transform([{"x": vector} for vector in vectors])]
    assert np.shape(places) == (count, 3)
    assert np.isfinite(places).all()
    (again,) = model.predict_minibatch([{"x": vectors[0]}])
    np.testing.assert_allclose(again["z"], places[0], atol=1e-3)
