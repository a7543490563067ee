"""Bad input of every kind ends in InputError, one sentence, and leaves nothing half-written."""

import dataclasses
import shutil

import pytest
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

from tests.conftest import CHOICES
from utils.config import Config, InputError
from utils.machine import runtime
from utils.modeling.losses import LOSSES
from utils.modeling.pooling import POOLINGS
from utils.runs.fold import fit_fold
from utils.tasks import TASKS, add_folds, load_table
from utils.tasks.regression import Regression

FIELDS = [field.name for field in dataclasses.fields(Config)]
JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-3, 12), st.floats(), st.floats(-2, 8), st.text(max_size=12),
    st.sampled_from(["", " ", ",", "a,b", "none", "None", "nan", "inf", "1e400", "-0", "1_0", "٣", "True", "0x10"]),
    st.sampled_from([name for names in [*CHOICES.values(), POOLINGS, TASKS, LOSSES] for name in names]),
    st.lists(st.text(max_size=4), max_size=3), st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
    st.binary(max_size=4), st.complex_numbers(),
)  # fmt: skip


def attempt(function):
    """What ``function`` gives, or its sentence."""
    try:
        return function(), None
    except InputError as error:
        sentence = str(error)
        assert sentence.strip()
        assert "\n" not in sentence, sentence
        assert "Traceback" not in sentence
        return None, sentence


@settings(max_examples=200)
@given(overrides=st.dictionaries(st.sampled_from(FIELDS), JUNK, max_size=4))
@example(overrides={"lr": 10**400})
@example(overrides={"target_columns": [1, 2]})
@example(overrides={"run": "\0"})
def test_any_parameter_value_makes_a_config_or_a_sentence(overrides):
    config, sentence = attempt(lambda: Config.make(**{"preset": "tiny", **overrides}))
    if sentence is None:
        types = {field.name: field.type for field in dataclasses.fields(Config)}
        for name, value in config.to_dict().items():
            expected = tuple if "tuple" in str(types[name]) else (int, float) if types[name] is float else types[name]
            assert isinstance(value, expected), name


CELLS = st.one_of(
    st.text(max_size=8),
    st.sampled_from(["", "nan", "inf", "-1e999", "1", "0.5", '"', "'", ",", "\n", "\r\n", "\0", "\ufeff", "NULL"]),
    st.just("a" * 3000),
    st.floats().map(str),
)  # fmt: skip
HEADERS = st.lists(st.sampled_from(["id", "excerpt", "target", "fold", "topic", "", "Target", "id "]), max_size=5)


@st.composite
def files(draw):
    """A CSV that is nearly right: a good one with some of its parts replaced, or bytes."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=200))
    header = ["id", "excerpt", "target"] if draw(st.booleans()) else draw(HEADERS)
    rows = [[f"r{i}", f"some words {i}", str(i / 2)] for i in range(draw(st.integers(0, 12)))]
    for row in rows:
        if draw(st.integers(0, 5)) == 0:
            row[draw(st.integers(0, 2))] = draw(CELLS)
        if draw(st.integers(0, 20)) == 0:
            row.append(draw(CELLS))
    lines = [",".join(f'"{cell}"' if draw(st.booleans()) else cell for cell in row) for row in [header, *rows]]
    text = draw(st.sampled_from(["\n", "\r\n"])).join(lines)
    return text.encode(draw(st.sampled_from(["utf-8", "utf-8", "utf-8", "utf-16", "latin-1"])), errors="replace")


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(content=b'"\n",some words 0,0.0\nr1,some words 1,0.5\n', fold_by="kfold", n_folds=2)
@given(content=files(), fold_by=st.sampled_from(["kfold", "stratified", "group"]), n_folds=st.integers(2, 6))
def test_any_file_makes_a_table_or_a_sentence(content, fold_by, n_folds, tmp_path):
    path = tmp_path / "train.csv"
    path.write_bytes(content)
    options = {"data": str(path), "fold_by": fold_by, "n_folds": n_folds, "group_column": "topic"}
    config = Config.make("tiny", max_rows=0, **options)
    table, sentence = attempt(lambda: add_folds(load_table(config), config))
    if sentence is None:
        assert len(table) >= n_folds
        assert table["id"].is_unique
        assert table["target"].notna().all()
        assert set(table["fold"]) == set(range(n_folds))
    assert [entry.name for entry in tmp_path.iterdir()] == ["train.csv"]


@st.composite
def recipes(draw):
    """Settings that Config may well take, in combinations that nobody chose."""
    names = ["pooling", "loss", "param_groups", "schedule", "averaging", "swa_anneal", "fold_by", "patience_on"]
    choices = CHOICES | {"pooling": sorted(POOLINGS), "loss": Regression.losses}
    options = {name: draw(st.sampled_from(choices[name])) for name in names if draw(st.booleans())}
    numbers = {
        "epochs": st.floats(0.3, 2), "optimizer": st.sampled_from(["madgrad", "adamw"]),
        "swa_start": st.floats(0, 0.5), "swa_every": st.integers(0, 9),
        "batch_size": st.integers(1, 99), "accumulation_steps": st.integers(1, 9), "n_dropouts": st.integers(1, 3),
        "max_length": st.integers(8, 700), "reinit_layers": st.integers(0, 3), "n_folds": st.integers(2, 12),
        "max_rows": st.integers(8, 40), "lr": st.sampled_from([1e-12, 1e-3, 1e3, 1e30]),
        "eval_every": st.integers(0, 9), "warmup_ratio": st.floats(0, 1), "swa_anneal_epochs": st.floats(0, 3),
        "layer_dropout": st.sampled_from([0.0, 1.0]),
        "head_dropout": st.sampled_from([0.0, 1.0]), "max_grad_norm": st.sampled_from([0.0, 1e-30, 1.0]),
        "save_every": st.integers(0, 3), "patience": st.integers(0, 2), "swa_flat_lr": st.sampled_from([0.0, 1e3]),
    }  # fmt: skip
    texts = ["run", "data", "encoder", "id_column", "text_column", "target_columns", "group_column", "resume_from"]
    if draw(st.integers(0, 4)) == 0:
        options[draw(st.sampled_from(texts))] = draw(st.text(max_size=6))
    return options | {name: draw(strategy) for name, strategy in numbers.items() if draw(st.integers(0, 2)) == 0}


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(recipe=recipes())
def test_any_recipe_trains_or_says_why_not(recipe, workspace):
    shutil.rmtree(workspace / "output" / "tiny", ignore_errors=True)

    def train():
        config = Config.make("tiny", **{"epochs": 1, "swa_start": 0, "max_rows": 30, **recipe})
        return fit_fold(config, add_folds(load_table(config), config))

    folder, sentence = attempt(train)
    event("trained" if folder else f"refused: {sentence[:40]}")  # seen with --hypothesis-show-statistics
    run_folder = workspace / "output" / "tiny"
    if folder is not None:
        assert (folder / "result.json").is_file()
        assert not list(folder.glob("**/.*")), "nothing half-written"
    else:  # it may have diverged on the way: what is there is whole
        assert not list(run_folder.glob("fold-0/**/.*"))
    assert runtime.workspace() == workspace


@pytest.mark.full
@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(recipe=recipes())
def test_any_recipe_in_full(recipe, workspace):
    test_any_recipe_trains_or_says_why_not.hypothesis.inner_test(recipe, workspace)
