"""The folds as one model: every text is scored by the fold that did not see it."""

from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest

from tests.lit.conftest import HELD_OUT, MODEL, SCORE, predict
from utils.lit.out_of_fold import OUT_OF_FOLD
from utils.lit.run import start

MODEL_OF_ALL = "out of fold · averaged"


@pytest.fixture(scope="module")
def all_rows(lit):
    return lit.ask("get_dataset", dataset_name=OUT_OF_FOLD)


def of_all(lit, inputs, fields, model=MODEL_OF_ALL):
    return predict(lit, inputs, fields, model=model, dataset=OUT_OF_FOLD)


def test_every_text_is_scored_by_the_fold_that_did_not_see_it(lit, trained, all_rows):
    assert len(all_rows) == 5 * 24
    assert len({row["data"]["fold"] for row in all_rows}) == 5
    recorded = trained.predictions.set_index("id")["averaged"]
    expected = recorded.loc[[row["data"]["id"] for row in all_rows]]
    scores = [answer[SCORE] for answer in of_all(lit, all_rows, SCORE)]
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_the_page_opens_with_it_and_offers_no_map_of_several_models(lit):
    info = lit.ask("get_info")
    assert next(iter(info["models"])) == MODEL_OF_ALL
    assert next(iter(info["datasets"])) == OUT_OF_FOLD
    kinds = {
        name: {field["__name__"] for field in model["spec"]["output"].values()}
        for name, model in info["models"].items()
    }
    assert "Embeddings" in kinds[MODEL]
    assert "Embeddings" not in kinds[MODEL_OF_ALL]
    assert "TokenGradients" in kinds[MODEL_OF_ALL]


@pytest.mark.parametrize(
    ("model", "dataset", "share"),
    [
        (MODEL_OF_ALL, OUT_OF_FOLD, 0.0),
        (MODEL, HELD_OUT, 0.0),
        ("fold 1 · averaged", HELD_OUT, 1.0),
        (MODEL, OUT_OF_FOLD, 0.8),
    ],
)
def test_metrics_say_how_many_of_the_texts_the_model_was_trained_on(lit, model, dataset, share):
    rows = lit.ask("get_dataset", dataset_name=dataset)
    answers = lit.ask("get_metrics", {"inputs": rows}, model=model, dataset_name=dataset)
    assert answers["regression"][0]["metrics"]["seen"] == pytest.approx(share)


def test_an_edited_text_stays_with_its_fold(lit, all_rows):
    row = next(row for row in all_rows if row["data"]["fold"] == "3")
    edited = {"id": "", "data": row["data"] | {"excerpt": "A cat sat.", "_id": ""}, "meta": {}}
    ((answer,), (alone,)) = (
        of_all(lit, [edited], SCORE, name) for name in (MODEL_OF_ALL, "fold 3 · averaged")
    )
    assert answer[SCORE] == pytest.approx(alone[SCORE], abs=1e-5)
    for method in ("Grad ⋅ Input", "LIME"):
        ((_, values),) = lit.salience(method, MODEL_OF_ALL, OUT_OF_FOLD, [row])
        ((_, expected),) = lit.salience(method, "fold 3 · averaged", OUT_OF_FOLD, [row])
        np.testing.assert_allclose(values, expected, atol=1e-4)


def test_several_weights_open_side_by_side(trained, alone):
    two = replace(trained, folders={fold: trained.folders[fold] for fold in (0, 1)})
    for run, name in ((two, OUT_OF_FOLD), (replace(two, folders={1: two.folders[1]}), "fold 1")):
        lit = start(run, "last,averaged", texts=2)
        (models,) = parse_qs(urlsplit(lit.page).query)["models"]
        assert models.split(",") == [f"{name} · last", f"{name} · averaged"]
        assert set(models.split(",")) <= set(lit.ask("get_info")["models"])
    assert start(two, texts=2).page == start(two, texts=2).url
