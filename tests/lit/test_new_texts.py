"""Texts that come from the page: reloaded, edited, emptied; and the page's own mends."""

from pathlib import Path

import lit_nlp
import pytest

from tests.lit.conftest import HELD_OUT, MODEL, SCORE, predict
from utils.lit.page import PATCHES, patched


def enter(lit, **data):
    """A new text, as the page gets it back."""
    new = {"data": data | {"_id": ""}, "id": "", "meta": {}}
    return lit.ask("annotate_new_data", {"inputs": [new]}, dataset_name=HELD_OUT)[0]


def metrics(lit, rows):
    (answer,) = lit.ask("get_metrics", {"inputs": rows}, model=MODEL, dataset_name=HELD_OUT)["regression"]
    return answer["metrics"]


def test_a_reload_changes_no_number(lit, rows):
    """The page's address holds text alone."""
    reloaded = [enter(lit, **{name: str(value) for name, value in row["data"].items()}) for row in rows]
    for row, again in zip(rows, reloaded, strict=True):
        assert {n: v for n, v in again["data"].items() if n[0] != "_"} == {
            n: v for n, v in row["data"].items() if n[0] != "_"
        }
    assert metrics(lit, reloaded) == pytest.approx(metrics(lit, rows), rel=1e-5)
    errors = [result[SCORE]["error"] for result in lit.interpret("regression", MODEL, HELD_OUT, reloaded)]
    assert all(isinstance(error, float) for error in errors)


@pytest.mark.parametrize("target", [None, "", "x", "nan"])
def test_a_new_text_without_a_target_has_no_error_and_is_not_counted(lit, rows, target):
    for new in (enter(lit, excerpt="A cat sat.", target=target), enter(lit, excerpt="A cat sat.")):
        assert new["data"]["target"] is None
        assert new["data"]["band"] == ""
        (result,) = lit.interpret("regression", MODEL, HELD_OUT, [new])
        assert result[SCORE]["error"] is None
        assert result[SCORE]["score"] == pytest.approx(predict(lit, [new], SCORE)[0][SCORE])
        assert metrics(lit, [*rows, new]) == pytest.approx(metrics(lit, rows))


def test_an_edited_text_keeps_only_a_truth_of_its_own(lit, rows):
    data = rows[0]["data"]
    edited = enter(lit, **data | {"excerpt": "A cat sat."})["data"]
    assert (edited["target"], edited["band"], edited["standard_error"]) == (None, "", None)
    assert edited["topic"] == data["topic"]
    assert enter(lit, **data | {"excerpt": "A cat sat.", "target": 1.5})["data"]["target"] == 1.5
    assert enter(lit, **data | {"topic": "cats"})["data"]["target"] == data["target"]
    spec = lit.ask("get_info")["datasets"][HELD_OUT]["spec"]
    assert spec["target"]["default"] is None, "the page would invent 0"


def test_every_mend_of_the_page_finds_its_place():
    bundle = (Path(lit_nlp.__file__).parent / "client" / "build" / "default" / "main.js").read_bytes()
    for old, new in PATCHES:
        assert bundle.count(old) == 1, old
        assert patched(bundle).count(new) == 1 or not new
