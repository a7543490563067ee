"""Labels as people write them, and the task that targets look made for."""

import pandas as pd
import pytest

from utils import Config, load_table
from utils.config import InputError
from utils.tasks import add_folds, make_task
from utils.tasks.automatic import choose
from utils.tasks.label_columns import natural_order, read_labels


def read(*cells, known=()):
    return read_labels(pd.DataFrame({"label": list(cells)}, dtype=object), "label", "t.csv", known).tolist()


@pytest.mark.parametrize(
    ("cells", "labels"),
    [
        (["good", " bad "], ["good", "bad"]),
        (["New  York", "Rome"], ["New York", "Rome"]),
        ([1, 2.0, "3.0", "+4"], ["1", "2", "3", "4"]),
        ([1.5, "2.50"], ["1.5", "2.5"]),
        ([True, False], ["True", "False"]),
        (["-1", "0", "1"], ["-1", "0", "1"]),
    ],
)
def test_labels_are_strings_however_they_are_written(cells, labels):
    assert read(*cells) == labels


@pytest.mark.parametrize("empty", ["", "  ", None, float("nan"), "NaN", "n/a"])
def test_an_empty_cell_is_a_missing_label(empty):
    assert pd.isna(read("good", empty)[1])


def test_labels_that_differ_by_case_are_refused():
    with pytest.raises(InputError, match="holds both 'Good' and 'good'; write them alike"):
        read("good", "Good", "bad")


def test_a_label_that_is_not_among_the_given_ones_is_refused():
    with pytest.raises(InputError, match="none of the labels bad, good in row 2: 'god'"):
        read("good", "god", known=("bad", "good"))


def test_numbers_are_ordered_by_value_and_words_by_the_alphabet():
    assert natural_order({"10", "9", "-1"}) == ("-1", "9", "10")
    assert natural_order({"yes", "no"}) == ("no", "yes")


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ([{"0", "1"}, {"0", "1"}], "multilabel"),
        ([{"0", "1"}], "binary"),
        ([{"yes", "no"}], "binary"),
        ([{"True", "False"}], "binary"),
        ([{"a", "b", "c"}], "multiclass"),
        ([{"1", "2", "3", "4"}], "ordinal"),
        ([{"1", "2", "2.5"}], "regression"),
        ([{"1e999", "2", "3"}], "regression"),
        ([{str(n) for n in range(30)}], "regression"),
        ([{"0.5", "1"}, {"0", "1"}], "regression"),
    ],
)
def test_the_task_is_chosen_from_the_targets_and_floats_are_no_classes(values, name):
    assert choose(values)[0] == name


# --- whole tables ------------------------------------------------------------------------------------------


@pytest.fixture
def labelled(workspace):
    """A function that writes a table with a column "label" and gives its Config."""

    def write(cells, **options):
        rows = {
            "id": [str(i) for i in range(len(cells))],
            "excerpt": [f"A text with {i} birds in the number {i * 7} tree." for i in range(len(cells))],
        }
        pd.DataFrame({**rows, "label": cells}).to_csv(workspace / "t.csv", index=False)
        given = {"data": str(workspace / "t.csv"), "target_columns": "label", "fold_by": "stratified"}
        return Config.make("tiny", **{**given, **options})

    return write


@pytest.mark.parametrize(
    ("task", "labels", "message"),
    [
        ("multiclass", ["a"] * 20, "holds the label 'a' alone"),
        ("multiclass", [f"word {i}" for i in range(20)], "20 different labels in 20 rows"),
        ("multiclass", ["a", "b", ""] + ["a"] * 17, "holds no label in row 3"),
        ("binary", ["a", "b", "c"] + ["a"] * 17, "set task=multiclass"),
        ("multilabel", ["0", "2"] * 10, "something else than 0 and 1 in row 2"),
        ("ordinal", ["low", "high"] * 10, "have no order of their own; set labels"),
    ],
)
def test_what_cannot_be_learnt_is_refused_in_a_sentence(task, labels, message, labelled):
    config = labelled(labels, task=task)
    with pytest.raises(InputError, match=message):
        make_task(config, load_table(config))


def test_auto_says_what_it_chose_and_why(labelled, capsys):
    config = labelled(["1", "2", "3", "4"] * 5, task="auto")
    assert make_task(config, load_table(config)).name == "ordinal"
    assert "task=auto: ordinal, since the target holds 4 different whole numbers" in capsys.readouterr().out


def test_the_labels_come_from_the_whole_table_and_weights_from_the_training_rows(labelled):
    config = labelled(
        ["a"] * 10 + ["b"] * 9 + ["c"], task="multiclass", class_weights="balanced", fold_by="kfold"
    )
    table = add_folds(load_table(config), config)
    task = make_task(config, table, table[table["label"] != "c"])
    assert task.labels == (("a", "b", "c"),)
    assert task.loss.weights.tolist() == pytest.approx([19 / 20, 19 / 18, 19 / 2])


def test_given_labels_set_the_order(labelled):
    config = labelled(["low", "high", "middle"] * 7, task="ordinal", labels="low,middle,high")
    assert make_task(config, load_table(config)).labels == (("low", "middle", "high"),)


def test_pos_weight_is_negatives_over_positives(labelled):
    config = labelled(["no"] * 15 + ["yes"] * 5, task="binary", pos_weight="auto")
    table = add_folds(load_table(config), config)
    assert make_task(config, table, table).loss.weights.tolist() == [3.0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_weights": "1,2"}, "a positive number for each of the 3 labels"),
        ({"class_weights": "1,x,2"}, "write balanced, or a positive number"),
        ({"class_weights": "1,0,2"}, "a positive number"),
        ({"loss": "mse"}, "loss='mse' is not known"),
        ({"loss": "soft_f1", "class_weights": "balanced"}, "does nothing with loss=soft_f1; set loss="),
        ({"loss": "bce"}, "is for two classes per target"),
        ({"metric": "rmse"}, "metric='rmse' is not known"),
        ({"focal_gamma": 1.0}, "focal_gamma=1.0 does nothing with loss=cross_entropy; set loss=focal"),
    ],
    ids=str,
)
def test_settings_that_cannot_work_are_refused(options, message, labelled):
    config = labelled(["a", "b", "c"] * 7, task="multiclass", **options)
    with pytest.raises(InputError, match=message):
        make_task(config, table := load_table(config), table)


@pytest.mark.parametrize("metric", ["auroc", "mcc"])
def test_a_metric_that_the_fold_cannot_define_is_refused_before_training(metric, labelled):
    config = labelled(["no"] * 10 + ["yes"] * 10, task="binary", metric=metric)
    table = load_table(config)
    with pytest.raises(
        InputError, match="is undefined on the rows that the fold holds out: it needs rows of"
    ):
        make_task(config, table).check_fold(table, table[table["label"] == "no"])


def test_a_fold_that_trains_on_one_label_is_refused(labelled):
    config = labelled(["no"] * 10 + ["yes"] * 10, task="binary")
    table = load_table(config)
    with pytest.raises(InputError, match="trains on one label of 'label' alone, 'no'"):
        make_task(config, table).check_fold(table[table["label"] == "no"], table)
