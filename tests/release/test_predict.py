"""``predict``: the predictions of a folder of weights for texts and for a table."""

import shutil

import numpy as np
import pandas as pd
import pytest

from tests.runs.helpers import held_out_rows, scores_of
from utils import predict
from utils.config import Config, InputError
from utils.machine import runtime
from utils.runs import artifacts
from utils.runs.fold import fit_fold
from utils.tasks import add_folds, load_table


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A trained fold and its held-out rows.

    The fold is moved and everything else that training wrote is removed, since a folder of weights must work
    wherever it is copied to.
    """
    workspace = tmp_path_factory.mktemp("workspace")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime, "workspace", lambda: workspace)
        config = Config.make("tiny", precision="fp32", epochs=3, eval_batch_size=4)
        table = add_folds(load_table(config), config)
        # Batches are sorted by length, so texts of one length would not test the order of predictions.
        table["excerpt"] = [text[: 40 + 7 * (row % 30)] for row, text in enumerate(table["excerpt"])]
        folder = fit_fold(config, table).rename(tmp_path_factory.mktemp("moved") / "fold")
    shutil.rmtree(workspace)
    return folder, held_out_rows(table)


@pytest.fixture
def folder(trained):
    return trained[0]


@pytest.fixture
def held_out(trained):
    return trained[1].copy()


@pytest.mark.parametrize("weights", ["last", "best", "averaged"])
def test_texts_and_a_table_get_the_predictions_of_the_fold(weights, folder, held_out):
    expected = artifacts.read_predictions(folder)
    of_table = predict(folder / weights, held_out)
    assert list(of_table) == ["id", "target"]
    assert of_table["id"].tolist() == expected["id"].tolist()
    of_texts = predict(str(folder / weights), held_out["excerpt"].tolist())
    assert of_texts["id"].tolist() == [str(number) for number in range(len(held_out))]
    for predictions in (of_table, of_texts):
        np.testing.assert_allclose(predictions["target"], expected[weights], atol=1e-5, rtol=0)
    assert expected[weights].std() > 1e-4, "all predictions are the same, so that their order is not tested"


def test_a_tables_order_and_ids_are_kept_and_targets_are_not_needed(folder, held_out):
    expected = artifacts.read_predictions(folder).set_index("id")["averaged"]
    table = held_out.sample(frac=1.0, random_state=0)[["excerpt", "id"]]
    unchanged = table.copy()
    predictions = predict(folder / "averaged", table)
    assert predictions["id"].tolist() == table["id"].tolist() != expected.index.tolist()
    np.testing.assert_allclose(predictions["target"], expected[table["id"]], atol=1e-5, rtol=0)
    pd.testing.assert_frame_equal(table, unchanged)
    numbered = predict(folder / "averaged", table[["excerpt"]])
    assert numbered["id"].tolist() == [str(number) for number in range(len(table))]
    np.testing.assert_array_equal(numbered["target"], predictions["target"])


def test_names_that_differ_by_space_or_case_lose_no_ids(folder, held_out, capsys):
    expected = predict(folder / "averaged", held_out)
    renamed = held_out.rename(columns={"excerpt": "Essay ", "id": " ID"})
    pd.testing.assert_frame_equal(predict(folder / "averaged", renamed, text_column="essay"), expected)
    said = {"the table: column ' ID' is read as 'id'.", "the table: column 'Essay ' is read as 'essay'."}
    assert said <= set(capsys.readouterr().out.splitlines())


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (pd.DataFrame({"id": ["a"], "exerpt": ["a text"]}), "no column 'excerpt'; did you mean 'exerpt'?"),
        (pd.DataFrame({"id": ["a", "a"], "excerpt": ["one", "two"]}), "column 'id' repeats an id in row 2"),
        ([], "predict got no texts; pass at least one"),
        ("a single text", "takes a list of texts, or a table; put the text into a list"),
        (["a text", 3], "column 'excerpt' holds something that is not text in row 2"),
    ],
    ids=["no text column", "repeated id", "empty list", "single text", "number"],
)
def test_rows_that_cannot_be_predicted_are_refused_in_one_sentence(rows, words, folder):
    with pytest.raises(InputError, match=words) as caught:
        predict(folder / "averaged", rows)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("empty", ["", " \n", None, float("nan"), pd.NA])
def test_an_empty_text_gets_the_models_score_of_an_empty_text(empty, folder):
    with pytest.warns(
        UserWarning, match=r"1 of 3 texts are empty, in row 2 \(1\); they get the model's score"
    ):
        scores = predict(folder / "averaged", ["a text", empty, "another text"])["target"]
    expected = predict(folder / "averaged", ["a text", "another text"])["target"]
    np.testing.assert_allclose(scores[[0, 2]], expected, atol=1e-6, rtol=0)
    assert scores[1] == pytest.approx(scores_of(folder / "averaged", [""])[0, 0], abs=1e-6)


def test_a_folder_without_weights_is_refused_in_one_sentence(folder, tmp_path):
    for path in (folder, folder / "nothing", folder / "predictions.csv", str(tmp_path)):
        with pytest.raises(InputError, match="holds no model; name a folder of weights") as caught:
            predict(path, ["a text"])
        assert "\n" not in str(caught.value)


def test_the_column_of_texts_may_have_another_name(folder, held_out):
    expected = predict(folder / "averaged", held_out)
    renamed = held_out.rename(columns={"excerpt": "essay"}).assign(excerpt="something else")
    pd.testing.assert_frame_equal(predict(folder / "averaged", renamed, text_column="essay"), expected)
    with pytest.raises(InputError, match="no column 'esay'; did you mean 'essay'"):
        predict(folder / "averaged", renamed, text_column="esay")


@pytest.mark.parametrize("name", ["tokenizer.json", "model.safetensors"])
def test_a_folder_that_was_copied_in_part_is_refused_in_one_sentence(name, folder, tmp_path):
    copy = shutil.copytree(folder / "averaged", tmp_path / "copy")
    content = (copy / name).read_bytes()
    (copy / name).unlink()
    if name == "model.safetensors":
        (copy / name).write_bytes(content[:-100])
    with pytest.raises(InputError, match=f"copy/{name} is missing, cut short or altered") as caught:
        predict(copy, ["a text"])
    assert "\n" not in str(caught.value)
