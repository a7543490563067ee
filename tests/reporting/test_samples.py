"""Notebook 02's table of samples, with a slider and without."""

import ipywidgets as widgets
import numpy as np
import pandas as pd
import pytest
from IPython.display import Markdown
from pandas.io.formats.style import Styler

from tests import hostile
from tests.runs.test_samples import TASKS, make_samples
from utils.machine import runtime
from utils.reporting import samples as report
from utils.runs import artifacts


@pytest.fixture
def displayed(monkeypatch):
    """What the module displays."""
    objects = []
    monkeypatch.setattr(report, "display", objects.append)
    return objects


def show(kind, folder, steps=(10, 20)):
    """A task, and samples of it in ``folder``: averaged weights come with the last step."""
    task, samples = make_samples(kind, folder)
    guess = task.guess(samples.targets)
    for step in steps:
        samples.show(step, step / 10, {"raw": guess} | ({"averaged": guess} if step == steps[-1] else {}))
    return task


@pytest.mark.parametrize("kind", TASKS)
def test_what_was_predicted_after_a_step_is_read_back(kind, tmp_path):
    task = show(kind, tmp_path)
    records = artifacts.read_samples(tmp_path)
    first, last = (report.at_step(records, task, step) for step in (10, 20))
    assert list(first) == ["id", "target", "predicted", "text"]
    assert first["target"].tolist() == last["target"].tolist()
    assert first["text"].tolist() == last["text"].tolist()
    assert all(text.startswith("raw ") and "averaged" not in text for text in first["predicted"])
    for before, after in zip(first["predicted"], last["predicted"], strict=True):
        assert after == f"{before}, {before.replace('raw ', 'averaged ')}"
    table = report.side_by_side(records, task)
    assert list(table) == ["id", "target", "step 10", "step 20", "text"]
    assert table["step 10"].tolist() == first["predicted"].tolist()


def test_headless_some_steps_stand_side_by_side(tmp_path, displayed):
    task = show("one number", tmp_path, steps=range(1, 31))
    report.show_samples(tmp_path, task)
    (table,) = displayed
    assert isinstance(table, Styler)
    steps = [int(name.split()[1]) for name in table.data if name.startswith("step")]
    assert len(steps) == report.COLUMNS
    assert (steps[0], steps[-1]) == (1, 30)
    assert np.ptp(np.diff(steps)) <= 1


def test_a_live_notebook_has_a_slider_over_the_steps(tmp_path, displayed, monkeypatch):
    monkeypatch.setattr(runtime, "progress_wanted", lambda: True)
    task = show("ordinal", tmp_path)
    made = []
    monkeypatch.setattr(widgets, "interact", lambda draw, step: made.append((draw, step)))
    report.show_samples(tmp_path, task)
    ((draw, slider),) = made
    assert slider.options == (10, 20)
    assert slider.value == 20
    for step in slider.options:
        draw(step)
        expected = report.at_step(artifacts.read_samples(tmp_path), task, step)
        columns = ["id", "target", "predicted"]  # the texts are escaped
        pd.testing.assert_frame_equal(displayed.pop().data[columns], expected[columns])


def test_without_samples_it_says_so(tmp_path, displayed):
    report.show_samples(tmp_path, None)
    (sentence,) = displayed
    assert isinstance(sentence, Markdown)
    assert "samples=0" in sentence.data


def test_samples_are_shown_as_text(tmp_path, displayed):
    task, samples = make_samples("one number", tmp_path)
    samples.rows = samples.rows.assign(excerpt=hostile.STRINGS[0])
    samples.show(1, 0.1, {"raw": np.zeros((len(samples.rows), 1))})
    report.show_samples(tmp_path, task)
    hostile.check_page(hostile.exported(displayed[0]))
