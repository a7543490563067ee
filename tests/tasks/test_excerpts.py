"""Texts cut short around what is marked in them."""

import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tasks.questions import make_questions
from utils import Config, add_folds, load_table
from utils.tasks import make_task
from utils.tasks.excerpts import excerpt

TEXT = "The quick brown fox jumps over the lazy dog while seven wizards make toxic brew for the evil queen."


@pytest.mark.parametrize(
    ("width", "marks", "expected"),
    [
        (200, {}, TEXT),
        (20, {}, "The quick brown fox …"),
        (200, {"[]": (16, 19)}, TEXT.replace("fox", "[fox]")),
        (22, {"[]": (16, 19)}, "… brown [fox] jumps …"),
        (40, {"[]": (4, 9), "{}": (93, 98)}, "The [quick] brown fox … for the evil {queen}."),
        (40, {"[]": (16, 19), "{}": (10, 25)}, "The quick {brown [fox] jumps} over the lazy …"),
        (40, {"[]": (10, 19), "{}": (10, 15)}, "The quick [{brown} fox] jumps over the lazy …"),
        (40, {"[]": (10, 15), "{}": (10, 19)}, "The quick {[brown] fox} jumps over the lazy …"),
        (40, {"[]": (16, 19), "{}": (16, 19)}, "The quick brown [{fox}] jumps over the lazy …"),
        (40, {"[]": (10, 15), "{}": (15, 19)}, "The quick [brown]{ fox} jumps over the lazy …"),
        (5, {"[]": (10, 25)}, "… [brown fox jumps] …"),
        (20, {"[]": (-1, -1), "{}": (0, 0)}, "The quick brown fox …"),
    ],
)
def test_it_is_cut_around_the_marks(width, marks, expected):
    assert excerpt(TEXT, width, marks) == expected


@given(
    st.text(alphabet="ab \n\t語", max_size=80),
    st.integers(1, 90),
    st.lists(st.tuples(st.integers(0, 80), st.integers(1, 20)), max_size=2),
)
def test_what_is_marked_is_there_whole_and_nothing_is_made_up(text, width, places):
    marks = {}
    for brackets, (start, length) in zip(("[]", "{}"), places, strict=False):
        if start + length <= len(text):
            marks[brackets] = (start, start + length)
    shown = excerpt(text, width, marks)
    assert "\n" not in shown
    plain = re.sub(r"[\[\]{}]", "", shown)
    one_line = " ".join(text.split())
    for piece in plain.split("…"):
        assert " ".join(piece.split()) in one_line
    assert len(re.sub("… | …", "", plain)) <= max(width, 20) * max(len(marks), 1)
    for brackets, (start, stop) in marks.items():
        (inside,) = re.findall(rf"\{brackets[0]}(.*)\{brackets[1]}", shown)
        assert re.sub(r"[\[\]{}]", "", inside).split() == text[start:stop].split()


def test_questions_show_the_true_and_the_predicted_answer_in_the_context(tmp_path):
    make_questions(4).to_csv(tmp_path / "train.csv", index=False)
    config = Config.make("questions", data=str(tmp_path / "train.csv"), n_folds=2)
    table = add_folds(load_table(config), config).iloc[:3]
    task = make_task(config, table)
    targets = task.targets(table)
    start = table["_context"].iloc[0].index("market")
    raw = np.tile([float(start), start + 6.0, 1.0, -1.0], (3, 1))
    averaged = raw * [1, 1, 1, -1]  # no answer
    first, second, third = task.excerpts(table, {"target": targets, "raw": raw}, 400)
    assert first.startswith("What does Ada sell? · Ada sells [red kites] in the {market} of Rome.")
    assert "in the [{market} of Rome]." in second
    assert "[" not in third
    assert "{market}" in third
    shown = task.excerpts(table, {"target": targets, "raw": raw, "averaged": averaged}, 400)
    assert "[red kites]" in shown[0]
    assert not any("{" in text for text in shown), "the averaged weights' are shown, where there are any"


def test_an_aspect_far_from_the_beginning_is_seen(tmp_path):
    config = Config.make("aspects")
    words = "word " * 60
    table = pd.DataFrame({"id": ["1"], "text": [f"{words}food was good"], "aspect": "food", "start": 300})
    (shown,) = make_task(config, pd.DataFrame({"polarity": ["a", "b"]})).excerpts(table, {}, 60)
    assert "word [food] was good" in shown
    assert len(shown) < 70
    assert shown.startswith("… word")


def test_of_two_texts_both_are_seen():
    config = Config.make("tiny", pair_column="question")
    table = pd.DataFrame({"id": ["1"], "excerpt": ["one two three four"], "question": ["five six seven"]})
    assert make_task(config).excerpts(table, {}, 20) == ["one two … · five six …"]
    assert make_task(config).excerpts(table, {}, 99) == make_task(config).quoted_texts(table).tolist()
