"""Any bad input raises InputError with one sentence and leaves no partial file behind."""

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

FIELDS = [field.name for field in dataclasses.fields(Config)]
ODD_TEXTS = ["", " ", ",", "a,b", "none", "None", "nan", "inf", "1e400", "-0", "1_0", "٣", "True", "0x10"]
KNOWN_NAMES = [name for names in [*CHOICES.values(), POOLINGS, TASKS, LOSSES] for name in names]
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-3, 12),
    st.floats(),
    st.floats(-2, 8),
    st.text(max_size=12),
    st.sampled_from(ODD_TEXTS),
    st.sampled_from(KNOWN_NAMES),
    st.lists(st.text(max_size=4), max_size=3),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
    st.binary(max_size=4),
    st.complex_numbers(),
)


def attempt(function):
    """The result of ``function`` and None, or None and the sentence of its InputError."""
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
            assert isinstance(value, accepted_types(types[name])), name


def accepted_types(annotation):
    if "tuple" in str(annotation):
        return tuple
    return (int, float) if annotation is float else annotation


ODD_CELLS = ["", "nan", "inf", "-1e999", "1", "0.5", '"', "'", ",", "\n", "\r\n", "\0", "\ufeff", "NULL"]
CELLS = st.one_of(
    st.text(max_size=8),
    st.sampled_from(ODD_CELLS),
    st.just("a" * 3000),
    st.floats().map(str),
)
COLUMNS = ["id", "excerpt", "target", "fold", "topic", "", "Target", "id "]
HEADERS = st.lists(st.sampled_from(COLUMNS), max_size=5)
ENCODINGS = st.sampled_from(["utf-8", "utf-8", "utf-8", "utf-16", "latin-1"])


@st.composite
def files(draw):
    """An almost valid CSV file: a good one with some cells replaced or, rarely, random bytes."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=200))
    header = ["id", "excerpt", "target"] if draw(st.booleans()) else draw(HEADERS)
    rows = [[f"r{i}", f"some words {i}", str(i / 2)] for i in range(draw(st.integers(0, 12)))]
    for row in rows:
        if draw(st.integers(0, 5)) == 0:
            row[draw(st.integers(0, 2))] = draw(CELLS)
        if draw(st.integers(0, 20)) == 0:
            row.append(draw(CELLS))
    quoted = [[f'"{cell}"' if draw(st.booleans()) else cell for cell in row] for row in [header, *rows]]
    text = draw(st.sampled_from(["\n", "\r\n"])).join(",".join(row) for row in quoted)
    return text.encode(draw(ENCODINGS), errors="replace")


FOLD_BY = CHOICES["fold_by"]


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(content=b'"\n",some words 0,0.0\nr1,some words 1,0.5\n', fold_by="kfold", n_folds=2)
@given(content=files(), fold_by=st.sampled_from(FOLD_BY), n_folds=st.integers(2, 6))
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


NAMED_CHOICES = {"pooling": sorted(POOLINGS), "loss": sorted(LOSSES)} | {
    name: CHOICES[name]
    for name in ("param_groups", "schedule", "averaging", "swa_anneal", "fold_by", "patience_on")
}
OTHER_SETTINGS = {
    "epochs": st.floats(0.3, 2),
    "optimizer": st.sampled_from(["madgrad", "adamw"]),
    "swa_start": st.floats(0, 0.5),
    "swa_every": st.integers(0, 9),
    "batch_size": st.integers(1, 99),
    "accumulation_steps": st.integers(1, 9),
    "n_dropouts": st.integers(1, 3),
    "max_length": st.integers(8, 700),
    "reinit_layers": st.integers(0, 3),
    "n_folds": st.integers(2, 12),
    "max_rows": st.integers(8, 40),
    "lr": st.sampled_from([1e-12, 1e-3, 1e3, 1e30]),
    "eval_every": st.integers(0, 9),
    "warmup_ratio": st.floats(0, 1),
    "swa_anneal_epochs": st.floats(0, 3),
    "layer_dropout": st.sampled_from([0.0, 1.0]),
    "head_dropout": st.sampled_from([0.0, 1.0]),
    "max_grad_norm": st.sampled_from([0.0, 1e-30, 1.0]),
    "save_every": st.integers(0, 3),
    "patience": st.integers(0, 2),
    "swa_flat_lr": st.sampled_from([0.0, 1e3]),
}
FREE_TEXTS = [
    "run",
    "data",
    "encoder",
    "id_column",
    "text_column",
    "target_columns",
    "group_column",
    "resume_from",
]


@st.composite
def recipes(draw):
    """Mostly valid settings in combinations that nobody chose."""
    options = {
        name: draw(st.sampled_from(names)) for name, names in NAMED_CHOICES.items() if draw(st.booleans())
    }
    if draw(st.integers(0, 4)) == 0:
        options[draw(st.sampled_from(FREE_TEXTS))] = draw(st.text(max_size=6))
    return options | {
        name: draw(strategy) for name, strategy in OTHER_SETTINGS.items() if draw(st.integers(0, 2)) == 0
    }


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(recipe=recipes())
def test_any_recipe_trains_or_says_why_not(recipe, workspace):
    shutil.rmtree(workspace / "output" / "tiny", ignore_errors=True)

    def train():
        config = Config.make("tiny", **{"epochs": 1, "swa_start": 0, "max_rows": 30, **recipe})
        return fit_fold(config, add_folds(load_table(config), config))

    folder, sentence = attempt(train)
    event("trained" if folder else f"refused: {sentence[:40]}")  # printed with --hypothesis-show-statistics
    run_folder = workspace / "output" / "tiny"
    if folder is not None:
        assert (folder / "result.json").is_file()
        assert not list(folder.glob("**/.*")), "a partial file was left behind"
    else:  # it may have diverged after some files were written; none of them may be partial
        assert not list(run_folder.glob("fold-0/**/.*"))
    assert runtime.workspace() == workspace


@pytest.mark.full
@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(recipe=recipes())
def test_any_recipe_in_full(recipe, workspace):
    test_any_recipe_trains_or_says_why_not.hypothesis.inner_test(recipe, workspace)
