"""A state of another training, or a damaged one, is refused in one sentence."""

import json
import os
import random

import pytest
import torch

from tests.runs.helpers import OPTIONS, Stop, assert_same, stop_after
from utils.config import InputError
from utils.machine import files, precision, runtime
from utils.runs import checkpoint
from utils.runs.fold import fit_fold


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lr": 2e-3}, r"lr \(was 0.001, is 0.002\)"),
        ({"seed": 5, "epochs": 5}, r"seed \(was 2021, is 5\), epochs \(was 4.0, is 5.0\);"),
        ({"target_columns": "standard_error"}, r"target_columns \(was \['target'\], is \('standard_error',\)\)"),
        ("data", "holds another training: the data;"),
    ],
)
def test_a_changed_config_or_changed_data_is_refused_by_name(finished, changes, words, tiny, tiny_table, monkeypatch):
    config = tiny(save_every=1, **OPTIONS)
    go_on = stop_after(0 if finished else 9, monkeypatch)
    if finished:
        fit_fold(config, tiny_table)
    else:
        with pytest.raises(Stop):
            fit_fold(config, tiny_table)
    go_on()
    table = tiny_table
    if changes == "data":
        changes, table = {}, tiny_table.assign(excerpt=tiny_table["excerpt"] + " more")
    with pytest.raises(InputError, match=words) as caught:
        fit_fold(tiny(**{**OPTIONS, **changes}), table)
    assert "set run to train beside it, or retrain=True to replace it." in str(caught.value)
    assert "\n" not in str(caught.value)
    fit_fold(tiny(retrain=True, **{**OPTIONS, **changes}), table)


def test_another_precision_is_refused(tiny, tiny_table, monkeypatch):
    go_on = stop_after(9, monkeypatch)
    with pytest.raises(Stop):
        fit_fold(tiny(precision="auto", save_every=1, **OPTIONS), tiny_table)
    go_on()
    here = precision.choose("auto").name
    other = "bf16" if here == "fp32" else "fp32"
    monkeypatch.setattr(precision, "choose", lambda wanted: precision.Choice(other, "another machine"))
    with pytest.raises(InputError, match=rf"precision \(was {here}, here {other}\)"):
        fit_fold(tiny(precision="auto", **OPTIONS), tiny_table)


@pytest.mark.parametrize("name", ["model.safetensors", "average.safetensors", "rest.pt", "manifest.json"])
@pytest.mark.parametrize("damage", ["cut short", "one byte", "missing"])
def test_a_damaged_state_is_refused_by_name(name, damage, saved, tiny, tiny_table):
    path = saved / name
    content = bytearray(path.read_bytes())
    generator = random.Random(7)
    for _ in range(5 if damage == "one byte" else 1):
        altered = content.copy()
        if damage == "cut short":
            altered = altered[: len(altered) // 2]
        elif damage == "one byte":
            place = generator.randrange(len(altered))
            altered[place] ^= 1 << generator.randrange(8)
        path.write_bytes(altered)
        if damage == "missing":
            path.unlink()
        with pytest.raises(InputError, match=rf"{name} (is|has) .*(damaged|altered)") as caught:
            fit_fold(tiny(**OPTIONS), tiny_table)
        assert "set retrain=True to start anew" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_state_of_another_version_is_refused(saved, tiny, tiny_table):
    sealed = json.loads((saved / "manifest.json").read_text())
    sealed["content"]["format"] = 99
    sealed["sha256"] = checkpoint._seal(sealed["content"])
    (saved / "manifest.json").write_text(json.dumps(sealed))
    with pytest.raises(InputError, match=r"manifest.json is of format 99, this version reads 3"):
        fit_fold(tiny(**OPTIONS), tiny_table)


class Malice:
    def __reduce__(self):
        return os.mkdir, (os.environ["MALICE"],)


def test_no_code_comes_out_of_a_state(saved, tiny, tiny_table, tmp_path, monkeypatch):
    """A state that somebody else made, seals and all: what it would run is not run."""
    monkeypatch.setenv("MALICE", str(tmp_path / "malice"))
    torch.save({"optimizer": Malice()}, saved / "rest.pt")
    sealed = json.loads((saved / "manifest.json").read_text())
    sealed["content"]["files"]["rest.pt"] = files.digest(saved / "rest.pt")
    sealed["sha256"] = checkpoint._seal(sealed["content"])
    (saved / "manifest.json").write_text(json.dumps(sealed))
    with pytest.raises(InputError, match=r"rest.pt .*cannot be read.*retrain=True"):
        fit_fold(tiny(**OPTIONS), tiny_table)
    assert not (tmp_path / "malice").exists()


def test_a_full_disk_while_saving_leaves_the_earlier_state(whole, tiny, tiny_table, monkeypatch):
    real, calls = checkpoint.save_file, []

    def full(tensors, path):
        calls.append(path)
        if len(calls) == 11:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        real(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", full)
    config = tiny(run="full", save_every=1, **OPTIONS)
    with pytest.raises(InputError, match=r"could not be saved in output/full/fold-0/state \(No space left on device\); "
                       r"the state of step-0000000\d is still there; free some space and run again"):  # fmt: skip
        fit_fold(config, tiny_table)
    monkeypatch.undo()
    monkeypatch.setattr(runtime, "workspace", lambda: whole.parents[2])
    assert len(list((whole.parent.parent / "full" / "fold-0" / "state").iterdir())) == 1, "and nothing half-written"
    assert_same(whole, fit_fold(config, tiny_table))
