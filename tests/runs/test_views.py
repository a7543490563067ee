"""Views at test time: seeded, of each kind, judged out of fold, written as numbered submissions."""

import numpy as np
import pandas as pd
import pytest

from utils.config import InputError
from utils.runs import artifacts, views
from utils.runs.fold import fit_fold
from utils.runs.run import open_run
from utils.runs.submission import load_test
from utils.runs.views import KINDS, judge_views, predict_views, write_views
from utils.tasks import make_task


@pytest.fixture
def folder(tiny, tiny_table):
    return fit_fold(tiny(averaging="none", epochs=1, max_length=16), tiny_table)


def test_views_are_seeded_and_lie_apart(folder, tiny, tiny_table):
    """All texts here are longer than 16 tokens."""
    task, rows = make_task(tiny(max_length=16), tiny_table), tiny_table.iloc[:12]
    usual = None
    for kind in KINDS:
        made = predict_views(task, folder / "last", rows, kind, 4, seed=3)
        assert made.shape == (4, 12, 1)
        again = predict_views(task, folder / "last", rows, kind, 3, seed=3)
        np.testing.assert_array_equal(made[:3], again, err_msg="a view depends on seed and number alone")
        usual = made[0] if usual is None else usual
        np.testing.assert_array_equal(made[0], usual, err_msg="the first view is the usual one")
        assert (np.ptp(made, axis=0) > 0).any(), kind
        other = predict_views(task, folder / "last", rows, kind, 4, seed=4)
        assert (other[1:] != made[1:]).any(), "another seed gives other views"


def test_a_short_text_is_read_whole_in_every_window(folder, tiny, tiny_table):
    task = make_task(tiny(max_length=16), tiny_table)
    rows = tiny_table.iloc[:3].assign(excerpt=["One two.", "Three.", "Four five six."])
    made = predict_views(task, folder / "last", rows, "window", 3)
    np.testing.assert_array_equal(made, np.broadcast_to(made[0], made.shape))


def test_a_view_of_one_side_begins_or_ends_with_the_text(tiny, tiny_table, folder):
    task, tokenizer = make_task(tiny(), tiny_table), artifacts.load_model(folder / "last")[1]
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"excerpt": [" ".join(f"w{i}" for i in range(40))] * 20})
    texts = views._cut(task, table, tokenizer, rng, "side")["excerpt"]
    room = tokenizer.model_max_length - tokenizer.num_special_tokens_to_add()
    lengths = {len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts}
    assert lengths == {room, max(lengths)}
    assert all(text.endswith("w39") for text in texts)


def test_views_are_judged_on_held_out_rows(folder, tiny):
    run = open_run(tiny(averaging="none", epochs=1, max_length=16))
    judged = judge_views(run, "last", "mask", 4).set_index("views")
    assert judged.loc["usual", "score"] == pytest.approx(run.task.score(run.targets, run.values("last")))
    gain = run.task.metric.gain(judged.loc["mean", "score"], judged.loc["usual", "score"])
    assert judged.loc["mean", "gain"] == pytest.approx(gain)
    assert judged.loc["mean", "gain_low"] <= gain <= judged.loc["mean", "gain_high"]
    assert judged.attrs["spread"]["spread"] > 0
    with pytest.raises(InputError, match="number=1 leaves no view beside the usual one; ask for 2 or more"):
        judge_views(run, "last", "mask", 1)


def test_submissions_are_numbered(folder, tiny, tiny_table, workspace):
    config = tiny(max_length=16)
    task, rows = make_task(config, tiny_table), load_test(config)
    made = predict_views(task, folder / "last", rows, "dropout", 3, share=0.3)
    paths = write_views(rows, made, task, workspace / "views")
    assert [path.parent.name for path in paths] == ["view-0", "view-1", "view-2", "mean"]
    tables = [pd.read_csv(path) for path in paths]
    np.testing.assert_allclose(np.stack([t["target"] for t in tables[:3]]).mean(axis=0), tables[3]["target"])
    assert not tables[1].equals(tables[2]), "copies of one file would say nothing"
    spread = pd.read_csv(workspace / "views" / "spread.csv")
    np.testing.assert_allclose(spread["spread"], made.std(axis=0)[:, 0])


def test_what_a_task_does_not_allow_is_refused(folder, tiny, tiny_table):
    task = make_task(tiny(max_length=16), tiny_table)
    with pytest.raises(InputError, match=r"kind.*masks.*did you mean 'mask'|kind='masks'"):
        predict_views(task, folder / "last", tiny_table, "masks", 2)
    with pytest.raises(InputError, match=r"number=0, share=0.1: ask for one view or more"):
        predict_views(task, folder / "last", tiny_table, "mask", 0)
    task.per_token = True
    with pytest.raises(InputError, match="use mask or dropout"):
        predict_views(task, folder / "last", tiny_table, "window", 2)
