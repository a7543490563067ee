"""A state of another training run and a damaged state are each refused in one sentence."""

import json
import os
import random

import pytest
import torch

from tests.runs.helpers import OPTIONS, Stop, assert_same, stop_after
from utils.config import InputError
from utils.machine import files, precision
from utils.runs import artifacts, checkpoint, resume, seal
from utils.runs.fold import fit_fold
from utils.runs.seal import RETRAIN
from utils.training.madgrad import MADGRAD


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lr": 2e-3}, r"lr \(was 0.001, is 0.002\)"),
        ({"seed": 5, "epochs": 5}, r"seed \(was 2021, is 5\), epochs \(was 4.0, is 5.0\);"),
        (
            {"target_columns": "level"},
            r"target_columns \(was \['target'\], is \('level',\)\)",
        ),
        ("data", "holds another training: the data;"),
    ],
)
def test_a_changed_config_or_changed_data_is_refused_by_name(
    finished, changes, words, tiny, tiny_table, monkeypatch
):
    config = tiny(save_every=1, **OPTIONS)
    table = tiny_table.assign(level=tiny_table["level"].astype(float))
    if finished:
        fit_fold(config, table)
    else:
        restore = stop_after(9, monkeypatch)
        with pytest.raises(Stop):
            fit_fold(config, table)
        restore()
    if changes == "data":
        changes, table = {}, table.assign(excerpt=tiny_table["excerpt"] + " more")
    with pytest.raises(InputError, match=words) as caught:
        fit_fold(tiny(**{**OPTIONS, **changes}), table)
    assert f"; set run to train beside it, or {RETRAIN}" in str(caught.value)
    assert "\n" not in str(caught.value)
    fit_fold(tiny(retrain=True, **{**OPTIONS, **changes}), table)


def test_another_precision_is_refused(tiny, tiny_table, monkeypatch):
    restore = stop_after(9, monkeypatch)
    with pytest.raises(Stop):
        fit_fold(tiny(precision="auto", save_every=1, **OPTIONS), tiny_table)
    restore()
    chosen = precision.choose("auto").name
    other = "bf16" if chosen == "fp32" else "fp32"
    monkeypatch.setattr(precision, "choose", lambda wanted: precision.Choice(other, "another machine"))
    with pytest.raises(InputError, match=rf"precision \(was {chosen}, here {other}\)"):
        fit_fold(tiny(precision="auto", **OPTIONS), tiny_table)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "average.safetensors", "rest.pt", "manifest.json", "best/tokenizer.json"]
)
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
            altered[generator.randrange(len(altered))] ^= 1 << generator.randrange(8)
        path.write_bytes(altered)
        if damage == "missing":
            path.unlink()
        with pytest.raises(InputError, match=rf"{name} (is|has) .*(damaged|altered)") as caught:
            fit_fold(tiny(**OPTIONS), tiny_table)
        assert str(caught.value).endswith(RETRAIN)
        assert "\n" not in str(caught.value)


def reseal(state, change):
    """Change the content of a state's manifest and seal it again."""
    sealed = json.loads((state / "manifest.json").read_text())
    change(sealed["content"])
    sealed["sha256"] = seal._hash(sealed["content"])
    (state / "manifest.json").write_text(json.dumps(sealed))


def test_a_state_of_another_format_is_refused(saved, tiny, tiny_table):
    reseal(saved, lambda content: content.update(format=99))
    with pytest.raises(InputError, match=r"manifest.json is of format 99, this version reads 4"):
        fit_fold(tiny(**OPTIONS), tiny_table)


class Exploit:
    """Makes a folder when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, (os.environ["EXPLOIT"],)


def test_a_state_runs_no_code(saved, tiny, tiny_table, tmp_path, monkeypatch):
    """Not even a state that somebody else made and sealed correctly."""
    monkeypatch.setenv("EXPLOIT", str(tmp_path / "exploit"))
    torch.save({"optimizer": Exploit()}, saved / "rest.pt")
    reseal(saved, lambda content: content["files"].update({"rest.pt": files.digest(saved / "rest.pt")}))
    with pytest.raises(InputError, match=r"rest.pt .*cannot be read.*retrain=True"):
        fit_fold(tiny(**OPTIONS), tiny_table)
    assert not (tmp_path / "exploit").exists()


def test_a_full_disk_while_saving_leaves_the_earlier_state(whole, tiny, tiny_table, monkeypatch):
    save_file, calls = checkpoint.save_file, []

    def save_until_full(tensors, path):
        calls.append(path)
        if len(calls) == 11:
            path.write_bytes(b"partial")
            raise OSError(28, "No space left on device")
        save_file(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", save_until_full)
    config = tiny(run="full", save_every=1, **OPTIONS)
    words = (
        r"could not be saved in output/full/fold-0/state \(No space left on device\); "
        r"the state of step-0000000\d is still there; free some space and run again"
    )
    with pytest.raises(InputError, match=words):
        fit_fold(config, tiny_table)
    monkeypatch.setattr(checkpoint, "save_file", save_file)
    states = list((artifacts.fold_folder(config) / "state").iterdir())
    assert len(states) == 1, "a partial state was left behind"
    assert_same(whole, fit_fold(config, tiny_table))


@pytest.mark.parametrize("optimizer", [MADGRAD, torch.optim.AdamW])
def test_an_optimizers_state_comes_back_from_its_parts(optimizer):
    weights = [torch.nn.Parameter(torch.ones(3)) for _ in range(2)]
    made = optimizer(weights, lr=0.1)
    weights[1].grad = torch.ones(3)
    made.step()
    numbers, tensors = resume.split(made.state_dict())
    joined, expected = resume.join(numbers, tensors), made.state_dict()
    assert joined["param_groups"] == expected["param_groups"]
    assert {key: set(value) for key, value in joined["state"].items() if value} == {
        1: {*expected["state"][1]}
    }
    assert all(torch.equal(joined["state"][1][name], value) for name, value in expected["state"][1].items())


def test_a_state_of_an_earlier_version_is_resumed(whole, tiny, tiny_table, monkeypatch):
    """The optimizer's tensors lay in rest.pt then."""
    monkeypatch.setattr(resume, "split", lambda state: (state, {}))
    config = tiny(run="earlier", save_every=1, **OPTIONS)
    undo = stop_after(9, monkeypatch)
    with pytest.raises(Stop):
        fit_fold(config, tiny_table)
    undo()
    state = checkpoint.latest(artifacts.fold_folder(config) / "state")
    (state / resume.OPTIMIZER).unlink()
    reseal(state, lambda content: content["files"].pop(resume.OPTIMIZER))
    assert_same(whole, fit_fold(config, tiny_table))
