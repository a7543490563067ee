import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.config import Config, InputError
from utils.tasks import add_folds


@settings(max_examples=30)
@given(
    n=st.integers(10, 60),
    n_folds=st.integers(2, 5),
    fold_by=st.sampled_from(["kfold", "stratified", "group"]),
    seed=st.integers(0, 9),
)
def test_folds_partition_the_rows(n, n_folds, fold_by, seed):
    generator = np.random.default_rng(seed)
    columns = {"target": generator.normal(size=n).round(1), "topic": np.arange(n) % 7}
    table = pd.DataFrame({"id": [f"r{i}" for i in range(n)], **columns})
    config = Config.make("demo", n_folds=n_folds, fold_by=fold_by, group_column="topic", seed=seed)
    folds = add_folds(table, config)["fold"]
    assert sorted(set(folds)) == list(range(n_folds))
    if fold_by == "group":
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
    table = pd.DataFrame({"id": map(str, range(500)), "target": np.random.default_rng(0).gumbel(size=500)})
    means = add_folds(table, Config.make("demo", fold_by="stratified")).groupby("fold")["target"].mean()
    random_means = add_folds(table, Config.make("demo", fold_by="kfold")).groupby("fold")["target"].mean()
    assert means.std() < random_means.std() / 2


def test_each_row_without_a_group_is_a_group_of_its_own():
    table = pd.DataFrame({"id": map(str, range(40)), "target": 0.0, "topic": ["a"] * 10 + [""] * 30})
    folds = add_folds(table, Config.make("demo"))["fold"]
    assert folds[:10].nunique() == 1
    assert folds[10:].nunique() == 5


def test_too_few_rows_or_groups(rows):
    with pytest.raises(InputError, match="12 rows cannot fill n_folds=13"):
        add_folds(rows, Config.make("demo", n_folds=13, fold_by="kfold"))
    with pytest.raises(InputError, match="has 2 groups, too few for n_folds=5"):
        add_folds(rows.assign(topic=["a", "b"] * 6), Config.make("demo"))
