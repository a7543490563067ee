import dataclasses
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.config import GROUPED, Config, InputError
from utils.data.folds import assign_folds
from utils.tasks import TASKS, add_folds, find_leaks, make_task

NEAR = "a long text about a lighthouse keeper, his lamp, the ships that pass, the gulls and the fog " * 3


def numbered(n, texts=None, **columns):
    """A table of n rows, whose texts are all different unless given."""
    texts = [f"text {i}" for i in range(n)] if texts is None else texts
    return pd.DataFrame({"id": [f"r{i}" for i in range(n)], "excerpt": texts, **columns})


def folds_of(table, **settings):
    return add_folds(table, Config.make("demo", **{"group_column": "topic", **settings}))["fold"]


@settings(max_examples=30)
@given(
    n=st.integers(10, 60),
    n_folds=st.integers(2, 5),
    fold_by=st.sampled_from(["kfold", "stratified", "group", "stratified_group"]),
    seed=st.integers(0, 9),
)
def test_folds_partition_the_rows(n, n_folds, fold_by, seed):
    generator = np.random.default_rng(seed)
    columns = {"target": generator.normal(size=n).round(1), "topic": np.arange(n) % 7}
    table = numbered(n, **columns)
    config = Config.make("demo", n_folds=n_folds, fold_by=fold_by, group_column="topic", seed=seed)
    folds = add_folds(table, config)["fold"]
    assert sorted(set(folds)) == list(range(n_folds))
    if fold_by in GROUPED:
        assert (folds.groupby(table["topic"]).nunique() == 1).all()
    else:
        sizes = folds.value_counts()
        assert sizes.max() - sizes.min() <= (1 if fold_by == "kfold" else n // n_folds)
    pd.testing.assert_series_equal(folds, add_folds(table, config)["fold"])


def test_kfold_is_the_published_split(rows):
    from sklearn.model_selection import KFold

    folds = add_folds(rows, Config.make("commonlit_original"))["fold"]
    for number, (_, held_out) in enumerate(KFold(5, shuffle=True, random_state=2021).split(rows)):
        assert set(folds.index[folds == number]) == set(held_out)


def test_stratified_folds_have_similar_targets():
    table = numbered(500, target=np.random.default_rng(0).gumbel(size=500))
    means = add_folds(table, Config.make("demo", fold_by="stratified")).groupby("fold")["target"].mean()
    random_means = add_folds(table, Config.make("demo", fold_by="kfold")).groupby("fold")["target"].mean()
    assert means.std() < random_means.std() / 2


def test_each_row_without_a_group_is_a_group_of_its_own():
    table = numbered(40, target=0.0, topic=["a"] * 10 + [""] * 30)
    folds = add_folds(table, Config.make("demo"))["fold"]
    assert folds[:10].nunique() == 1
    assert folds[10:].nunique() == 5


def test_too_few_rows_or_groups(rows):
    with pytest.raises(InputError, match="12 rows cannot fill n_folds=13"):
        add_folds(rows, Config.make("demo", n_folds=13, fold_by="kfold"))
    with pytest.raises(InputError, match="has 2 groups, too few for n_folds=5"):
        add_folds(rows.assign(topic=["a", "b"] * 6), Config.make("demo"))


# --- copies of a text ---------------------------------------------------------------------------------------

NEARNESS = {"exact": {}, "near": {"near_copies": "group"}}
VARIANTS = {
    "exact": ["A text.", "a  TEXT.", " a text .\n"],
    "near": [NEAR, NEAR.replace("gulls", "seagulls", 1), NEAR.replace("fog", "mist", 1)],
}


def with_copies(kind, n=40):
    """A table in which the variants of a text lie far apart, in several groups."""
    texts = [f"text {i}" for i in range(n)]
    texts[3], texts[17], texts[31] = VARIANTS[kind]
    targets = np.random.default_rng(0).normal(size=n)
    return numbered(n, texts, target=targets, topic=[f"t{i % 20}" for i in range(n)])


@pytest.mark.parametrize("fold_by", ["kfold", "stratified", "group", "stratified_group"])
@pytest.mark.parametrize("kind", NEARNESS)
def test_copies_stay_in_one_fold(kind, fold_by):
    table = with_copies(kind)
    for seed in range(5):
        folds = folds_of(table, fold_by=fold_by, seed=seed, **NEARNESS[kind])
        assert folds[[3, 17, 31]].nunique() == 1
        assert sorted(set(folds)) == list(range(5))
        if fold_by in GROUPED:
            assert (folds.groupby(table["topic"]).nunique() == 1).all()
        else:
            assert folds.value_counts().max() <= 10
    split = [folds_of(table, fold_by=fold_by, seed=seed, exact_copies="split") for seed in range(5)]
    assert any(folds[[3, 17, 31]].nunique() > 1 for folds in split), "the copies never were apart"


def test_folds_without_copies_are_scikit_learns():
    from sklearn.model_selection import GroupKFold, StratifiedKFold

    targets, topics = np.random.default_rng(1).normal(size=60), [f"t{i % 11}" for i in range(60)]
    table = numbered(60, target=targets, topic=topics)
    options = {"n_splits": 5, "shuffle": True, "random_state": 2021}
    strata = TASKS["regression"](Config.make("demo", fold_by="stratified")).strata(table)
    splits = {
        "stratified": StratifiedKFold(**options).split(table, strata),
        "group": GroupKFold(**options).split(table, groups=table["topic"]),
    }
    for fold_by, expected in splits.items():
        for near_copies in ("split", "group"):
            folds = folds_of(table, fold_by=fold_by, near_copies=near_copies)
            for number, (_, held_out) in enumerate(expected):
                assert set(folds.index[folds == number]) == set(held_out)


@pytest.mark.parametrize("preset", ["commonlit", "commonlit_original"])
def test_published_folds_are_kept_and_what_leaks_is_said(preset):
    table, config = with_copies("exact"), Config.make(preset)
    plain = table.assign(excerpt=[f"text {i}" for i in range(40)])
    folds = add_folds(table, config)
    pd.testing.assert_series_equal(folds["fold"], add_folds(plain, config)["fold"])
    words = "Texts that occur more than once: 1, in 3 rows.*1 of 1 lie in several folds.*exact_copies=group"
    assert re.search(words, find_leaks(folds, make_task(config)))


def test_more_copies_than_a_fold_are_refused_with_a_way_out():
    many = [NEAR.replace("lamp", f"lamp {i}", 1) for i in range(12)]
    table = numbered(40, many + [f"text {i}" for i in range(28)], target=np.arange(40.0), topic="")
    for fold_by in ("kfold", "stratified", "group"):
        words = "join 12 rows, such as 'r0' and 'r1' .*, and a fold has 8; .* set near_copies=split"
        with pytest.raises(InputError, match=words):
            folds_of(table, fold_by=fold_by, near_copies="group")
        folds_of(table, fold_by=fold_by, near_copies="split")
    table["excerpt"] = ["same"] * 12 + [f"text {i}" for i in range(28)]
    with pytest.raises(InputError, match="set exact_copies=split"):
        folds_of(table, fold_by="kfold")
    folds_of(table, fold_by="kfold", exact_copies="split")
    with pytest.raises(InputError, match=r"4 texts differ, too few for n_folds=5; .* set exact_copies=split"):
        folds_of(numbered(6, list("abcdab"), target=0.0), fold_by="kfold")


def test_near_copies_are_counted_and_one_is_shown():
    table, config = with_copies("near"), Config.make("demo", fold_by="kfold")
    folds = table.assign(fold=[i % 5 for i in range(40)])
    words = r"Near-copies .*: 3 texts in 1 clusters, such as 'r3' and 'r31' \('a long .*1 of 1 lie in several"
    assert re.search(words, find_leaks(folds, make_task(config)))
    grouped = Config.make("demo", fold_by="kfold", near_copies="group")
    assert find_leaks(add_folds(table, grouped), make_task(grouped)).endswith("; none lies in several folds.")


def test_a_large_group_is_no_copy():
    table = numbered(40, target=0.0, topic=["a"] * 20 + [f"t{i}" for i in range(20)])
    assert folds_of(table, fold_by="group")[:20].nunique() == 1


def test_rows_that_repeat_a_text_by_design_are_no_copies(monkeypatch):
    monkeypatch.setattr(TASKS["regression"], "repeats_texts", True)
    table, config = with_copies("exact"), Config.make("demo", fold_by="kfold")
    plain = table.assign(excerpt=[f"text {i}" for i in range(40)])
    pd.testing.assert_series_equal(add_folds(table, config)["fold"], add_folds(plain, config)["fold"])
    assert find_leaks(add_folds(table, config), make_task(config)) == ""


def test_labels_of_groups_that_differ_in_space_or_case_alone_are_told():
    topics = ["Tides", "tides ", " TIDES", *(f"t{i // 2}" for i in range(37))]
    table, config = numbered(40, target=0.0, topic=topics), Config.make("demo")
    folds = add_folds(table, config)
    told = "Column 'topic': labels such as 'Tides' and 'tides ' are groups of their own; write them alike."
    leaks = find_leaks(folds, make_task(config))
    assert leaks.startswith(told)
    assert ("1 groups, such as 'tides', lie in several folds" in leaks) == (folds["fold"][:3].nunique() > 1)


# --- classes and labels -------------------------------------------------------------------------------------

RARE = ("often", "at times", "seldom", "rarely")


def labelled(n=300, seed=0):
    """A table whose rows have labels of 40 % down to 4 %; topics have leanings of their own."""
    random = np.random.default_rng(seed)
    topic = random.integers(60, size=n)
    share = np.array([0.4, 0.2, 0.1, 0.04]) * (0.5 + random.random((60, 4)))[topic]
    labels = (random.random((n, 4)) < share).astype(int)
    labels[:, 3] |= labels[:, 2] & (random.random(n) < 0.3)
    return numbered(n, topic=[f"t{i}" for i in topic]), pd.DataFrame(labels, columns=RARE)


def unevenness(folds, labels):
    """Root mean square of the labels' counts by fold, in units of what an even spread gives each."""
    counts = labels.groupby(folds.to_numpy()).sum()
    return float(np.sqrt(((counts / counts.mean() - 1) ** 2).to_numpy().mean()))


@pytest.mark.parametrize(("fold_by", "plain"), [("stratified", "kfold"), ("stratified_group", "group")])
@pytest.mark.parametrize("several", [True, False])
def test_labels_and_classes_are_spread_evenly(fold_by, plain, several):
    spread, random = [], []
    for seed in range(4):
        table, labels = labelled(seed=seed)
        classes = labels["often"].astype(str) + labels["at times"].astype(str)
        indicators, strata = (labels, labels) if several else (pd.get_dummies(classes), classes)
        config = Config.make("demo", fold_by=fold_by, seed=seed)
        folds = assign_folds(table, config, strata)["fold"]
        pd.testing.assert_series_equal(folds, assign_folds(table, config, strata)["fold"])
        assert folds.value_counts().between(50, 70).all()
        if fold_by in GROUPED:
            assert (folds.groupby(table["topic"]).nunique() == 1).all()
        spread.append(unevenness(folds, indicators))
        at_random = assign_folds(table, dataclasses.replace(config, fold_by=plain))["fold"]
        random.append(unevenness(at_random, indicators))
    assert np.mean(spread) < np.mean(random) / 2


def test_labels_of_single_rows_are_spread_to_the_row():
    table, labels = labelled()
    counts = labels.groupby(
        assign_folds(table, Config.make("demo", fold_by="stratified"), labels)["fold"]
    ).sum()
    assert ((counts.max() - counts.min()) <= 2).all()


@pytest.mark.parametrize("kind", NEARNESS)
def test_copies_stay_in_one_fold_where_labels_are_spread(kind):
    table, labels = with_copies(kind), pd.DataFrame({"a": [1, 0] * 20, "b": [0, 0, 0, 1] * 10})
    for seed in range(5):
        config = Config.make("demo", fold_by="stratified", seed=seed, **NEARNESS[kind])
        assert assign_folds(table, config, labels)["fold"][[3, 17, 31]].nunique() == 1


@pytest.mark.parametrize("fold_by", ["stratified", "stratified_group"])
def test_a_class_that_is_too_rare_for_the_folds_is_named(fold_by):
    table, labels = labelled()
    classes = pd.Series(["good"] * 296 + ["bad"] * 4)
    labels["rarely"] = [1] * 3 + [0] * 297
    config = Config.make("demo", fold_by=fold_by)
    for words, strata in {"class 'bad' has 4 rows": classes, "class 'rarely' has 3 rows": labels}.items():
        ways = "too few to spread over n_folds=5; lower n_folds, choose a fold_by that is not stratified"
        with pytest.raises(InputError, match=f"^{words}, {ways}"):
            assign_folds(table, config, strata)
        assign_folds(table, dataclasses.replace(config, n_folds=3), strata)
        assign_folds(table, dataclasses.replace(config, fold_by="group"))


# --- a table's own folds ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [int, str, float])
def test_a_tables_own_folds_are_used_and_what_leaks_is_said(dtype):
    own = pd.Series([i // 3 % 4 for i in range(40)])
    table = with_copies("exact").assign(fold=own.astype(dtype))
    config = Config.make("demo", fold_by="column", n_folds=4)
    folds = add_folds(table, config)
    assert folds["fold"].tolist() == own.tolist()
    assert pd.api.types.is_integer_dtype(folds["fold"])
    leaks = find_leaks(folds, make_task(config))
    assert re.search("more than once: 1.*in several folds, and scores flatter: mend the column", leaks)
    assert re.search(r"Column 'topic': \d+ groups, such as 't\d+', lie in several folds", leaks)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (["1", "2", "3", "4", "5"], "holds 1, 2, 3, 4, 5; .*n_folds=5 it must hold the numbers 0 to 4"),
        (["0", "1", "2"], "holds 0, 1, 2; with fold_by=column and n_folds=5"),
        (["0", "1", "2", "3", ""], "must hold the numbers 0 to 4, each at least once"),
        (["a", "b", "c", "d", "e"], "change the column, or n_folds"),
        (["0", "1", "2", "3", "4", "0.5"], "holds 0, 0.5, 1"),
    ],
)
def test_own_folds_that_do_not_fit_are_refused(labels, words):
    table = numbered(30, target=0.0, fold=[labels[i % len(labels)] for i in range(30)])
    with pytest.raises(InputError, match=words):
        folds_of(table, fold_by="column")
    with pytest.raises(InputError, match="no column 'fold'"):
        folds_of(table.drop(columns="fold"), fold_by="column")


@pytest.mark.parametrize("fold_by", ["kfold", "stratified", "group", "stratified_group"])
def test_own_folds_are_never_overwritten(fold_by):
    table = numbered(40, target=np.arange(40.0), topic=[f"t{i % 9}" for i in range(40)], fold="0")
    with pytest.raises(InputError, match='a column "fold" of its own; fold_by=column uses it, or rename it'):
        folds_of(table, fold_by=fold_by)
    folds = folds_of(table.drop(columns="fold"), fold_by=fold_by)
    again = folds_of(table.assign(fold=folds.astype(str)), fold_by=fold_by)
    pd.testing.assert_series_equal(again, folds)
