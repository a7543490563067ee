"""From names and values to the folds to train."""

import itertools
import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from batch import grid, parameters
from utils.config import Config, InputError
from utils.runs.fold import fit_fold


def test_a_call_without_values_trains_every_fold_of_the_demo(workspace):
    jobs = grid.expand({})
    assert [job.config for job in jobs] == [Config.make("demo", fold=fold) for fold in range(5)]
    assert jobs[3].notebook == workspace / "output" / "demo" / "02_fold3.ipynb"
    assert jobs[3].parameters == {"preset": "demo", "fold": 3}


def test_words_become_parameters_as_config_takes_them():
    words = [
        "--fold",
        "0-2,4",
        "--swa-start=1.5",
        "--encoder-dropout",
        "-1",
        "--target_columns",
        "a,b",
        "--run",
        "1,2",
    ]
    given = parameters.parse_options(words)
    assert given == {
        "fold": "0-2,4",
        "swa_start": "1.5",
        "encoder_dropout": "-1",
        "target_columns": "a,b",
        "run": "1,2",
    }
    jobs = grid.expand(given)
    assert [job.config.fold for job in jobs] == [0, 1, 2, 4]
    assert {job.config.run for job in jobs} == {"1,2"}, "a name is one, whatever is in it"
    assert jobs[0].config.target_columns == ("a", "b")
    numbers = {"fold": 0, "swa_start": 1.5, "encoder_dropout": -1.0}
    assert jobs[0].parameters == {"preset": "demo", **numbers, "target_columns": "a,b", "run": "1,2"}
    assert Config.make(**jobs[0].parameters) == jobs[0].config, "the notebook comes to the same settings"


names = st.sampled_from(["seed", "lr", "epochs", "batch_size", "fold"])
values = {
    "seed": st.integers(0, 99),
    "lr": st.floats(1e-6, 1e-2),
    "epochs": st.floats(4, 9),
    "batch_size": st.integers(1, 64),
    "fold": st.integers(0, 4),
}


@st.composite
def grids(draw):
    """Some settings, with up to three values each."""
    chosen = draw(st.lists(names, unique=True, max_size=4))
    return {name: draw(st.lists(values[name], min_size=1, max_size=3, unique=True)) for name in chosen}


@given(grids())
def test_a_grid_is_every_combination_once_each_in_a_folder_of_its_own(axes):
    expected = math.prod(len(axes.get(name, range(5) if name == "fold" else [0])) for name in {"fold", *axes})
    for asked in (axes, {name: ",".join(map(repr, chosen)) for name, chosen in axes.items()}):
        jobs = grid.expand({"preset": "tiny", **asked})
        assert len(jobs) == expected
        assert len({job.folder for job in jobs}) == expected
        assert {tuple(job.parameters[name] for name in axes) for job in jobs} <= {
            tuple(combination) for combination in itertools.product(*axes.values())
        }
        assert set(grid.varied_names(jobs)) == {name for name, chosen in axes.items() if len(chosen) > 1} - {
            "fold"
        }


def test_runs_of_a_grid_are_named_after_what_varies(workspace):
    jobs = grid.expand({"preset": "tiny,demo", "lr": "1e-4,2e-4", "fold": "1"})
    assert [job.config.run_name for job in jobs] == [
        "tiny-lr-1e-4",
        "tiny-lr-2e-4",
        "demo-lr-1e-4",
        "demo-lr-2e-4",
    ]
    assert grid.batch_name(jobs, {}) == "tiny+demo-lr"
    named = grid.expand({"run": "mine", "preset": "tiny,demo", "encoder": "a/b,c", "fold": "0"})
    assert [job.config.run_name for job in named][1] == "mine-preset-tiny-encoder-c"
    assert named[0].config.run_name == "mine-preset-tiny-encoder-a-b", "a name of a folder"
    assert grid.batch_name(named, {"run": "mine"}) == "mine-encoder"
    assert grid.batch_name(named[:1], {}) == "mine-preset-tiny-encoder-a-b", "one run's own folder"


def test_yaml_says_the_same_and_the_command_line_counts_more(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(
        yaml.safe_dump({"preset": "tiny", "seed": [1, 2], "fold": "0-1", "target_columns": ["a", "b"]})
    )
    given = parameters.read_yaml(str(path)) | parameters.parse_options(["--fold", "3"])
    jobs = grid.expand(given)
    assert [(job.config.seed, job.config.fold) for job in jobs] == [(1, 3), (2, 3)]
    assert jobs[0].config.target_columns == ("a", "b"), "a list of names is one value of this one"
    assert len(grid.expand({"target_columns": [["a"], ["a", "b"]], "fold": 0})) == 2
    with pytest.raises(InputError, match="fold=None is no value; leave fold out"):
        grid.expand({"fold": None})
    assert grid.expand({"averaging": None, "fold": 0})[0].config.averaging == "none"
    assert grid.expand({"run": 7, "fold": 0, "seed": [1, 2]})[0].config.run_name == "7-seed-1"
    with pytest.raises(InputError, match=r"run=\['a', 'b'\] cannot be used; it takes one value"):
        grid.expand({"run": ["a", "b"]})


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--fld", "3"], "'fld' is not a parameter; did you mean 'fold'?"),
        (["--fld"], "'fld' is not a parameter; did you mean 'fold'?"),
        (["--fold"], "--fold has no value; write --fold VALUE."),
        (["--fold", "--seed", "1"], "--fold has no value; write --fold VALUE."),
        (["--preset"], "--preset has no value; write --preset VALUE."),
        (["3"], "'3' has no name; write --NAME VALUE or -p NAME VALUE, such as --fold 0-4."),
        (["--fold", "4-0"], "fold=4-0 runs backwards; write 0-4."),
        (["--fold", "0-7"], "fold=5 does not exist; with n_folds=5, the last one is 4."),
        (["--fold", ","], "fold has no value; leave it out, or name one."),
        (["--lr", "1e-4,fast"], "lr='fast' cannot be used; it must be a number."),
        (
            ["--fold", "1,1"],
            "two trainings would share output/demo/fold-1; name each value once, or set run.",
        ),
        (
            ["--data", "a/x.csv,b/x.csv", "--fold", "0"],
            "two trainings would share output/demo-x/fold-0; name each value once, or set run.",
        ),
        (["--fold", "0-99999999999"], "fold=0-99999999999 is too many values; name at most 10,000."),
        (["--preset", "demoo"], "preset='demoo' is not known; did you mean 'demo'?"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(words, sentence, workspace):
    with pytest.raises(InputError) as caught:
        grid.expand(parameters.parse_options(words))
    assert str(caught.value) == sentence


#: Ten lines that stand for 10**9 values, by lists of aliases and by merged mappings.
BOMB = b"a0: &a0 {x: 1}\n" + b"".join(
    b"a%d: &a%d {<<: [%s]}\n" % (i + 1, i + 1, b", ".join([b"*a%d" % i] * 10)) for i in range(9)
)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"fold: [0, 1", "is not YAML, line 1; write NAME: VALUE."),
        (b"- fold", "holds no parameters; write a line NAME: VALUE for each."),
        (b"", "holds no parameters; write a line NAME: VALUE for each."),
        (b"3: 4", "holds no parameters; write a line NAME: VALUE for each."),
        (b"a: &a [1]\nlr: *a", "has an alias, *a, in line 2; write out what it names."),
        (BOMB, "has an alias, *a0, in line 2; write out what it names."),
        (b"a: &a [*a]", "has an alias, *a, in line 1; write out what it names."),
        (b"a: " + b"[" * 1200, "is not YAML; write NAME: VALUE."),
        (b"lr: 2020-13-45", "is not YAML; write NAME: VALUE."),
        (b"\xff\xfe\xfa", "cannot be read (not UTF-8)."),
        (None, "cannot be read (No such file or directory)."),
    ],
)
def test_a_file_that_is_none_is_refused_in_a_sentence(content, sentence, tmp_path):
    path = tmp_path / "p.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        parameters.read_yaml(str(path))
    assert str(caught.value) == f"{path} {sentence}"


# --- before anything starts --------------------------------------------------------------------------------


def test_data_folds_and_encoders_are_looked_at_before_anything_starts(tiny):
    grid.check(grid.expand({"preset": "tiny"}))
    for wrong, part in (
        ({"data": "nowhere.csv"}, "data='nowhere.csv' is not a file"),
        ({"text_column": "txt"}, "txt"),
        ({"max_rows": 3}, "3 rows cannot fill n_folds=5"),
        ({"encoder": "no/such-encoder"}, "no/such-encoder"),
    ):
        with pytest.raises(InputError, match=part):
            grid.check(grid.expand({"preset": "tiny", **wrong}))


def test_another_training_in_the_way_is_named_before_anything_starts(tiny, tiny_table):
    config = tiny(fold=1)
    fit_fold(config, tiny_table)
    grid.check(grid.expand({"preset": "tiny", "precision": "fp32"}))
    changed = grid.expand({"preset": "tiny", "precision": "fp32", "lr": 0.5})
    with pytest.raises(InputError, match=r"fold-1 holds another training: lr \(was 0.001, is 0.5\)"):
        grid.check(changed)
    grid.check(grid.expand({"preset": "tiny", "precision": "fp32", "lr": 0.5, "retrain": True}))


def test_folds_of_the_same_run_that_others_trained_must_be_alike(tiny, tiny_table):
    fit_fold(tiny(fold=0), tiny_table)
    grid.check(grid.expand({"preset": "tiny", "precision": "fp32", "fold": "1,2"}))
    with pytest.raises(InputError, match=r"fold-0 holds another training: lr \(was 0.001, is 0.5\)"):
        grid.check(grid.expand({"preset": "tiny", "precision": "fp32", "fold": "1,2", "lr": 0.5}))
