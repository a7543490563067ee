import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import CHOICES
from utils.config import PRESETS, Config, InputError, check_choice, nearest

PARAMETERS = """# Parameters: ours
from typing import Optional
preset: str = "tiny"
fold: int = 0
lr: Optional[float] = None
"""


def run_cells(*cells):
    """A notebook's globals after these cells have run."""
    namespace = {"In": [""]}
    for cell in cells:
        namespace["In"].append(cell)
        exec(cell, namespace)
    return namespace


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_valid(preset):
    assert Config.make(preset).preset == preset


@pytest.mark.parametrize(
    ("preset", "task", "target"),
    [
        ("levels", "ordinal", "level"),
        ("suitable", "binary", "suitable"),
        ("vader", "multiclass", "sentiment"),
        ("vader_rating", "regression", "rating"),
    ],
)
def test_presets_of_labels_and_of_grades(preset, task, target):
    config = Config.make(preset)
    assert (config.task, config.target_columns, config.fold_by) == (task, (target,), "group")
    assert config.run_name == preset


def test_overrides_are_coerced_to_the_fields_types():
    config = Config.make(
        "demo", fold=3.0, lr="1e-4", target_columns="a, b", epochs=4, swa_start=1, standardize="False", run=1
    )
    assert config.fold == 3
    assert isinstance(config.fold, int)
    assert config.lr == 1e-4
    assert config.target_columns == ("a", "b")
    assert config.standardize is False
    assert config.run == "1"


@pytest.mark.parametrize("value", [None, "None", "none"])
@pytest.mark.parametrize("field", dataclasses.fields(Config), ids=lambda field: field.name)
def test_none_is_a_choice_or_refused_and_never_dropped(field, value):
    """Open sets and free texts take "None" as the name it may be."""
    free = field.type is str and "choices" not in field.metadata and field.name != "preset"
    if "none" in field.metadata.get("choices", ()):
        assert getattr(Config.make("demo", **{field.name: value}), field.name) == "none"
    elif value is None or (not free and field.type != tuple[str, ...]):
        with pytest.raises(InputError, match=f"{field.name}='?[Nn]one'? (is no value|cannot|is not known)"):
            Config.make(**{field.name: value})


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"preset": "dmo"}, "did you mean 'demo'"),
        ({"fld": 3}, "did you mean 'fold'"),
        ({"fold": 5}, "the last one is 4"),
        ({"fold": -1}, "out of range"),
        ({"fold": 1.5}, "a whole number"),
        ({"fold": "three"}, "a whole number"),
        ({"lr": "fast"}, "must be a number"),
        ({"lr": float("nan")}, "must be a number"),
        ({"lr": 0}, "out of range"),
        ({"n_folds": 1}, "must be 2 or more"),
        ({"head_dropout": 1.5}, "must be from 0 to 1"),
        ({"optimizer": "adamm"}, "did you mean 'adam'"),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
        ({"precision": "fp-16"}, "did you mean 'fp16'"),
        ({"lr_factor": 1}, "must be from 1e-12 to 0.99"),
        ({"lr_patience": 0, "schedule": "plateau"}, "must be 1 or more"),
        ({"lr_factor": 0.3}, "does nothing with schedule=cosine; set schedule to step or plateau, or leave"),
        ({"lr_patience": 3, "schedule": "step"}, "does nothing with schedule=step; set schedule to plateau"),
        ({"lr_step_epochs": 2, "schedule": "plateau"}, "set schedule to step, or leave lr_step_epochs out"),
        ({"min_lr_ratio": 0.1, "schedule": "linear"}, "set schedule to cosine or plateau"),
        ({"averaging": "mean"}, "choose one of"),
        ({"standardize": "maybe"}, "True or False"),
        ({"target_columns": ""}, "target_columns is empty"),
        ({"target_columns": 3}, "names separated by commas"),
        ({"fold_by": "group", "group_column": ""}, "needs group_column"),
        (
            {"fold_by": "stratified_group", "group_column": ""},
            'fold_by="stratified_group" needs group_column',
        ),
        ({"target_columns": "a,a"}, "name each column once"),
        ({"target_columns": "fold"}, "none of them fold"),
        ({"epochs": 1}, "leaves nothing to average"),
        ({"preset": ["demo"]}, "is not known"),
        ({"run": "../elsewhere"}, "cannot name a folder"),
    ],
)
def test_an_invalid_setting_is_one_sentence(overrides, words):
    with pytest.raises(InputError, match=words) as caught:
        Config.make(**{"preset": "demo", **overrides})
    assert "\n" not in str(caught.value)
    assert caught.value._render_traceback_() == [f"InputError: {caught.value}"]


def test_a_name_in_a_message_cannot_steer_a_terminal():
    names = ["\x1b[31mred", "two\nlines", "\x9b31mred\x07"]
    assert nearest("unknown", names) == "choose one of: 31mred, [31mred, two lines."


def test_a_notebook_passes_its_parameters():
    namespace = run_cells(PARAMETERS, "# Parameters\nfold = 3\nlayer_decay = 0.8\n", "unrelated = 1")
    config = Config.from_notebook(namespace)
    assert (config.preset, config.fold, config.layer_decay) == ("tiny", 3, 0.8)


@pytest.mark.parametrize("cell", ["averaging = None", "averaging = 'None'", 'averaging: str = "none"'])
def test_none_in_papermills_cell_counts(cell):
    """``papermill -p averaging None`` writes None, which in the notebook's own cell means the preset's."""
    cells = [PARAMETERS + "averaging: Optional[str] = None\n", f"# Parameters\n{cell}\n"]
    assert Config.from_notebook(run_cells(*cells)).averaging == "none"
    assert Config.from_notebook(run_cells(cells[0])) == Config.make("tiny")


def test_none_in_papermills_cell_where_it_means_nothing():
    with pytest.raises(InputError, match="lr=None is no value; leave lr out to have the preset's"):
        Config.from_notebook(run_cells(PARAMETERS, "# Parameters\nlr = None\n"))
    namespace = run_cells(PARAMETERS + "ensemble = None\n", "# Parameters\nensemble = None\n")
    assert Config.from_notebook(namespace, extra=("ensemble",)) == Config.make("tiny")


def test_a_typo_in_papermills_parameters_is_an_error():
    with pytest.raises(InputError, match="'fld' is not a parameter; did you mean 'fold'"):
        Config.from_notebook(run_cells(PARAMETERS, "# Parameters\nfld = 3\n"))


def test_running_all_cells_twice_works_and_ignores_other_variables():
    once = [PARAMETERS, "# Parameters\nfold = 3\n", "fld = 7; folder = 1"]
    assert Config.from_notebook(run_cells(*once, *once)).fold == 3


def test_an_edited_parameters_cell_wins_over_an_older_injected_one():
    assert Config.from_notebook(run_cells(PARAMETERS, "# Parameters\nfld = 3\n", PARAMETERS)).fold == 0


def test_a_missing_parameters_cell_is_an_error():
    with pytest.raises(InputError, match="no parameters cell has run"):
        Config.from_notebook({"In": ["", "x = 1"]})


def test_extra_parameters_of_a_notebook_are_no_settings():
    namespace = run_cells(PARAMETERS, "# Parameters\nport = 80\n")
    assert Config.from_notebook(namespace, extra=("port",)) == Config.make("tiny")


def test_open_sets_are_left_to_their_registries():
    config = Config.make("demo", task="any task", loss="any loss", pooling="any pooling")
    assert (config.task, config.loss, config.pooling) == ("any task", "any loss", "any pooling")
    check_choice("loss", "rmse", {"rmse": 1, "mse": 2})
    with pytest.raises(InputError, match=r"^loss='rsme' is not known; did you mean 'rmse'\?$"):
        check_choice("loss", "rsme", {"rmse": 1, "mse": 2})


def test_a_training_resumes_under_other_locations_but_not_other_settings():
    earlier = json.loads(json.dumps(Config.make("tiny").to_dict()))
    assert Config.make("tiny", run="moved", devices=2, output_dir="/elsewhere").differences(earlier) == []
    assert Config.make("tiny", lr=1.0, target_columns="a,b").differences(earlier) == ["target_columns", "lr"]
    before_it_existed = {name: value for name, value in earlier.items() if name != "stride"}
    assert Config.make("tiny").differences(before_it_existed) == []
    assert Config.make("tiny", stride=32).differences(before_it_existed) == ["stride"]


def test_what_is_shown_makes_no_other_training():
    earlier = json.loads(json.dumps(Config.make("tiny").to_dict()))
    assert Config.make("tiny", samples=9, samples_every=5).differences(earlier) == []
    before_samples = {name: value for name, value in earlier.items() if not name.startswith("samples")}
    assert Config.make("tiny").differences(before_samples) == []
    with pytest.raises(InputError, match="samples_every=5 does nothing with samples=0; leave it out, or set"):
        Config.make("tiny", samples=0, samples_every=5)
    with pytest.raises(InputError, match="samples=-1 is out of range; it must be 0 or more"):
        Config.make("tiny", samples=-1)


def test_a_setting_that_an_earlier_version_did_not_have_was_its_default():
    earlier = json.loads(json.dumps(Config.make("tiny").to_dict()))
    del earlier["eval_from"], earlier["labels"]
    assert Config.make("tiny").differences(earlier) == []
    assert Config.make("tiny", eval_from=1, labels="a,b").differences(earlier) == ["labels", "eval_from"]


def test_an_evaluation_must_lie_within_the_training():
    with pytest.raises(InputError, match=r"^eval_from=9 is after all 2 epochs; set it lower\.$"):
        Config.make("tiny", eval_from=9)


@given(name=st.sampled_from(sorted(CHOICES)), value=st.text(max_size=8))
def test_any_unknown_choice_is_an_input_error(name, value):
    if value not in CHOICES[name]:
        with pytest.raises(InputError, match="is not known"):
            Config.make("demo", **{name: value})
