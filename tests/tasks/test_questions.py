"""Tables of questions: where answers stand, and what is refused in a sentence."""

import numpy as np
import pytest

from tests.tasks.questions import make_questions, write_squad
from utils.config import Config, InputError
from utils.tasks import add_folds, load_table, make_task
from utils.tasks.questions import GIVEN


@pytest.fixture
def config(workspace):
    """Makes a Config that reads a table, written as a CSV; or the file of a path."""

    def make(table, **overrides):
        path = workspace / "train.csv"
        if hasattr(table, "to_csv"):
            table.to_csv(path, index=False)
        else:
            path = table
        options = {"data": str(path), "encoder": "tiny", "max_length": 64, "n_folds": 2}
        return Config.make("questions", **{**options, **overrides})

    return make


def test_answers_keep_the_case_and_white_space_of_the_text_as_it_was_given(config):
    table = make_questions()
    table.loc[0, ["answer", "start"]] = ["red kites\nin the\tmarket", str(table["context"][0].index("red"))]
    settings = config(table)
    read = load_table(settings)
    assert read[GIVEN].tolist() == table["context"].tolist()
    assert read["context"][0] == " ".join(table["context"][0].split())
    task = make_task(settings, read)
    spans = task.targets(read)[:, 1:]
    assert task.texts(read["id"], spans) == table["answer"].tolist()
    assert read["question"][0] == "What does Ada sell?"
    assert task.has_cuts


@pytest.mark.parametrize("version", ["1.1", "v2.0"])
def test_squads_json_gives_the_same_table_as_the_csv(config, workspace, version):
    table = make_questions()
    read = load_table(config(table))
    from_json = load_table(config(write_squad(workspace / "train.json", table, version)))
    columns = ["id", "question", "context", "answer", "start", "title", "_answers", "_context", "_stop"]
    assert from_json[columns].to_dict("records") == read[columns].to_dict("records")
    answered = table[table["answer"] != ""]
    only = config(write_squad(workspace / "train.json", answered, version))
    assert not make_task(only, load_table(only)).has_cuts, "no question is without an answer"


@pytest.mark.parametrize("columns", ["answer", "answer,start"])
def test_a_start_is_found_where_the_answer_occurs_once(config, columns):
    table = make_questions()
    starts = load_table(config(table))["start"].tolist()
    table["start"] = ""
    assert load_table(config(table, target_columns=columns))["start"].tolist() == starts
    read = load_table(config(table.drop(columns="start"), target_columns="answer"))
    assert read["start"].tolist() == starts


BAD = {
    "answer' does not stand where column 'start' says, .* in row 2: 'market of Rome'": {"start": "3"},
    "answer' does not stand where column 'start' says, .* in row 2": {"start": "-4"},
    "column 'start' holds no finite number in row 2: 'three'": {"start": "three"},
    "answer' occurs several times in its context, .* in row 2: 'Ada'": {"answer": "Ada", "start": ""},
    "answer' does not occur in its context, .* in row 2: 'Oslo'": {"answer": "Oslo"},
    "column 'question' holds an empty text in row 2": {"question": " \n"},
    "column 'context' holds an empty text in row 2": {"context": "  "},
}


@pytest.mark.parametrize(("sentence", "change"), BAD.items())
def test_what_cannot_be_learnt_from_is_refused_with_its_row(config, sentence, change):
    table = make_questions()
    table.loc[1, list(change)] = list(change.values())
    with pytest.raises(InputError, match=sentence):
        load_table(config(table))


def test_a_table_without_answers_or_with_some_missing_is_refused_where_none_may_be(config):
    table = make_questions()
    with pytest.raises(InputError, match="'answer' is empty, against no_answer=never, in row 3"):
        load_table(config(table, no_answer="never"))
    with pytest.raises(InputError, match="column 'answer' is empty; name another in target_columns"):
        load_table(config(table.assign(answer="", start="")))
    with pytest.raises(InputError, match="has no column 'question'"):
        load_table(config(table.drop(columns="question")))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"pair_column": ""}, "task=spans reads two columns; set pair_column"),
        ({"target_columns": "answer,start,end"}, "columns of answer and start"),
        ({"pooling": "cls"}, "pooling=cls does not fit task=spans, .* set pooling=tokens"),
        (
            {"task": "regression"},
            "pooling=tokens does not fit task=regression, .* set pooling=attention or",
        ),
        ({"loss": "mse"}, "loss='mse' is not known; .*span"),
    ],
)
def test_settings_that_do_not_fit_are_refused(config, change, sentence):
    with pytest.raises(InputError, match=sentence):
        make_task(config(make_questions(), **change))


def test_folds_that_part_the_questions_on_a_context_are_refused(config):
    """Sharing a context is no leak that is warned of, but no fold may have it on both sides."""
    table = make_questions()
    for change in ({"fold_by": "kfold"}, {"fold_by": "stratified"}):
        settings = config(table, **change)
        folded = add_folds(load_table(settings), settings)
        train, held_out = folded[folded["fold"] != 0], folded[folded["fold"] == 0]
        with pytest.raises(InputError, match="is held out, and trained on with other questions; set fold_by"):
            make_task(settings, folded).check_fold(train, held_out)
    for column in ("title", "context"):
        settings = config(table, group_column=column)
        folded = add_folds(load_table(settings), settings)
        train, held_out = folded[folded["fold"] != 0], folded[folded["fold"] == 0]
        make_task(settings, folded).check_fold(train, held_out)
        assert len(train)
        assert len(held_out)


def test_predictions_are_written_with_their_texts_and_read_back(config):
    settings = config(make_questions())
    table = load_table(settings)
    task = make_task(settings, table)
    targets = task.targets(table)
    sure = np.where(targets[:, 1] < 0, 1.0, -1.0)
    predictions = np.column_stack([np.maximum(targets[:, 1:], [2, 5]), np.zeros(len(table)), sure])
    written = task.predictions_table(table["id"].tolist(), {"target": targets, "last": predictions})
    assert written["last answer"].tolist() == written["target answer"].tolist() == table["answer"].tolist()
    np.testing.assert_array_equal(task.values(written, "target"), targets)
    np.testing.assert_array_equal(task.values(written, "last"), predictions)
    assert task.has(written.replace("", np.nan), "last"), "an empty answer is no missing prediction"
    assert task.scores(targets, predictions) == dict.fromkeys(task.scores(targets, predictions), 1.0)
    assert not task.errors(targets, predictions).any()
    values = {"target": targets[0], "last": predictions[2]}
    assert task.sample(values) == "target 'red kites', last no answer"
    wrong = predictions * [1, 1, 1, -1]
    assert task.score(targets, wrong) == 0
    assert task.errors(targets, wrong).shape == (24, 1)


def test_any_true_answer_is_right(config, workspace):
    table = make_questions()
    settings = config(write_squad(workspace / "train.json", table, more=["Ada stays"]))
    read = load_table(settings)
    task = make_task(settings, read)
    start = table["context"][0].index("Ada stays")
    assert task.judge(task.targets(read)[:1], np.array([[start, start + 10]])).tolist() == [[1.0, 1.0]]


def test_the_baselines_are_a_sentence_and_no_answer(config):
    settings = config(make_questions())
    table = load_table(settings)
    task = make_task(settings, table)
    baselines = task.baselines(table, table)
    scores = {name: task.scores(task.targets(table), values) for name, values in baselines.items()}
    assert scores["no answer"]["f1"] == pytest.approx(1 / 3)
    sentence = scores["sentence with most words in common"]
    assert 0 < sentence["f1_answered"] < 1
    assert sentence["no_answer_found"] == 0
