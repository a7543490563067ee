"""A finished fold is proven whole whenever it is read; what training saves is what can be loaded."""

import json
import os
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.runs.helpers import Stop, assert_same, stop_after
from utils import open_run, predict
from utils.config import Config, InputError
from utils.machine import files, precision
from utils.runs import artifacts, checkpoint, guards, seal
from utils.runs.fold import fit_fold
from utils.tasks import add_folds, load_table

DAMAGES = {
    "one byte": lambda content: bytes([content[0] ^ 1]) + content[1:],
    "last byte": lambda content: content[:-1] + bytes([content[-1] ^ 128]),
    "cut short": lambda content: content[: len(content) // 2],
    "emptied": lambda content: b"",
    "appended": lambda content: content + b"}",
    "deleted": None,
}


def full(value):
    return pytest.param(value, marks=pytest.mark.full)


def change(path, damage):
    content = DAMAGES[damage](path.read_bytes()) if DAMAGES[damage] else None
    path.unlink()
    if content is not None:
        path.write_bytes(content)


def train_until_stopped(config, table):
    with pytest.raises(Stop):
        fit_fold(config, table)


def make_config(output):
    options = {"epochs": 3, "swa_start": 1.0, "eval_every": 2, "save_every": 1, "lr": 5e-3}
    return Config.make("tiny", precision="fp32", output_dir=str(output), **options)


@pytest.fixture(scope="session")
def table():
    config = make_config("output")
    return add_folds(load_table(config), config)


@pytest.fixture(scope="session")
def finished(tmp_path_factory, table):
    """The output folder of a run with one finished fold; tests work on copies of it."""
    output = tmp_path_factory.mktemp("finished")
    fit_fold(make_config(output), table)
    return output


@pytest.fixture(scope="session")
def stopped(tmp_path_factory, table):
    """The output folder of the same run, killed in step 6 of 9."""
    output = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        stop_after(6, patch)
        train_until_stopped(make_config(output), table)
    return output


@pytest.fixture
def config(finished, tmp_path):
    """The Config of a copy of the finished run."""
    return make_config(shutil.copytree(finished, tmp_path / "copy"))


@pytest.fixture
def folder(config):
    return artifacts.fold_folder(config)


@pytest.fixture
def unfinished(stopped, tmp_path):
    """The Config of a copy of the unfinished run, with its links."""
    return make_config(shutil.copytree(stopped, tmp_path / "half", copy_function=files.link_or_copy))


@pytest.fixture
def state(unfinished):
    return checkpoint.latest(artifacts.fold_folder(unfinished) / "state")


def refused(name, read, *arguments):
    """``read`` raises an InputError of one sentence that names the file and a way out that works."""
    with pytest.raises(InputError, match=re.escape(name)) as caught:
        read(*arguments)
    assert "\n" not in str(caught.value)
    assert "retrain=True (-p retrain True)" in str(caught.value)


# --- damage ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", DAMAGES)
def test_no_file_of_a_finished_fold_changes_unnoticed(damage, config, folder, table):
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    sealed = seal.read_manifest(folder)["files"]
    assert {path.relative_to(folder).as_posix() for path in paths} == {*sealed, "manifest.json"}
    assert len(sealed) > 15
    for path in paths:
        name, content = path.relative_to(folder).as_posix(), path.read_bytes()
        change(path, damage)
        refused(name, open_run, config)
        refused(name, fit_fold, config, table)
        if path.parent.name in artifacts.WEIGHTS:
            refused(path.name, artifacts.load_model, path.parent)
            refused(path.name, predict, path.parent, ["a text"])
        if name in ("run.json", "result.json"):
            refused(name, artifacts.read_metadata if name == "run.json" else artifacts.read_result, folder)
        path.write_bytes(content)
    assert list(open_run(config).folders) == [0]


def test_retraining_is_a_way_out_of_any_damage(config, folder, table):
    for name in ("manifest.json", "run.json", "averaged/config.json"):
        change(folder / name, "one byte")
    fit_fold(replace(config, retrain=True), table)
    assert list(open_run(config).folders) == [0]


def test_weights_of_another_fold_or_epoch_are_noticed(config, folder):
    shutil.rmtree(folder / "averaged")
    shutil.copytree(folder / "best", folder / "averaged")
    refused("averaged/", artifacts.load_model, folder / "averaged")


def test_a_copy_is_read_wherever_it_lies_and_notes_are_no_fault(config, folder, tmp_path, table):
    (folder / "notes.md").write_text("a note")
    (folder / "averaged" / "README.md").write_text("a card")
    (folder / "state.png").write_bytes(b"a picture")
    mounted = shutil.copytree(folder.parent.parent, tmp_path / "elsewhere" / "kernel")
    for path in [*mounted.rglob("*"), mounted]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    shutil.rmtree(folder)
    resumed = replace(config, resume_from=str(mounted))
    assert list(open_run(resumed).folders) == [0]
    copy = fit_fold(resumed, table)
    assert (copy / "notes.md").exists()
    assert os.access(copy / "averaged", os.W_OK)
    alone = shutil.copytree(copy / "averaged", tmp_path / "alone")
    (tmp_path / "manifest.json").write_text("of something else")
    assert len(predict(alone, ["a text"])) == 1
    change(alone / "tokenizer.json", "deleted")
    refused("alone/tokenizer.json", predict, alone, ["a text"])


def test_a_damaged_earlier_output_is_not_copied(config, folder, tmp_path, table):
    mounted = shutil.move(folder.parent, tmp_path / "mounted")
    change(mounted / "fold-0" / "predictions.csv", "one byte")
    refused("mounted/fold-0/predictions.csv", fit_fold, replace(config, resume_from=str(mounted)), table)
    assert not folder.exists()


def test_predictions_must_be_those_of_the_held_out_rows_with_the_scores_of_the_result(config, folder):
    """Even where all has been sealed anew."""
    path = folder / "predictions.csv"
    content = path.read_text()
    lines = content.splitlines(keepends=True)
    for wrong, words in (
        ([*lines[:-4]], "other ids than the table's fold 0"),
        ([lines[0], *lines[:0:-1]], "other ids"),
        ([*lines[:-1], re.sub(r",-?\d", ",9", lines[-1])], "does not have the scores of result.json"),
    ):
        path.write_text("".join(wrong))
        artifacts.seal_fold(folder)
        with pytest.raises(InputError, match=f"predictions.csv .*{words}"):
            open_run(config)
    path.write_text(content)
    artifacts.seal_fold(folder)
    open_run(config)


BROKEN = [b"", b"{", b"[]", b"null", b"3", b'"text"', b"\xff\xfe{}", b"{}", b'{"config": 1, "scores": 2}']
BROKEN += [b"\xef\xbb\xbf{}", b"[" * 100_000, b'{"content": ' + b"9" * 5000 + b"}", b"NaN", b"\x00" * 64]


@pytest.mark.parametrize("content", BROKEN, ids=lambda content: repr(content[:12]))
def test_broken_json_is_one_sentence(content, config, folder):
    for name, read in (
        ("run.json", artifacts.read_metadata),
        ("result.json", artifacts.read_result),
        ("averaged/manifest.json", lambda folder: artifacts.load_model(folder / "averaged")),
        ("manifest.json", lambda folder: open_run(config)),
    ):
        whole = (folder / name).read_bytes()
        for sealed in (True, False):  # of an unfinished fold there is no seal that would tell
            manifest = (folder / "manifest.json").read_bytes()
            if not sealed:
                (folder / "manifest.json").unlink()
            (folder / name).write_bytes(content)
            refused(name.removeprefix("averaged/"), read, folder)
            (folder / "manifest.json").write_bytes(manifest)
            (folder / name).write_bytes(whole)


def test_a_fold_that_an_earlier_version_finished_is_refused_with_the_way_out(config, folder, table):
    for path in [folder / "manifest.json", *folder.glob("*/manifest.json")]:
        path.unlink()
    refused("has no manifest.json: it was lost, or was trained by an earlier version", open_run, config)
    refused("has no manifest.json", fit_fold, config, table)
    fit_fold(replace(config, retrain=True), table)
    open_run(config)


def test_a_file_is_hashed_once_and_again_when_it_has_changed(tmp_path, monkeypatch):
    path, hashed, real = tmp_path / "weights", [], files.hashlib.file_digest
    monkeypatch.setattr(files.hashlib, "file_digest", lambda *a: hashed.append(a) or real(*a))
    path.write_bytes(b"old")
    first = files.digest(path)
    assert files.digest(path) == first
    assert len(hashed) == 2, "it is too new for its times to tell"
    os.utime(path, (1e9, 1e9))
    assert files.digest(path) == files.digest(path) == first
    assert len(hashed) == 3
    path.write_bytes(b"new")
    assert files.digest(path) != first


# --- kills -------------------------------------------------------------------------------------------------


def test_everything_is_on_the_disk_before_the_state_goes(unfinished, table, monkeypatch):
    flushed, real, rmtree = {}, files.flush_to_disk, shutil.rmtree

    def flush(path):
        flushed[path.stat().st_ino] = path.stat().st_mtime_ns
        real(path)

    def check(path, **options):
        if os.path.basename(path) == "state":
            for file in [path.parent, *path.parent.rglob("*")]:
                if path not in (file, *file.parents):
                    assert flushed.get(file.stat().st_ino, 0) >= file.stat().st_mtime_ns, file
            raise Stop
        rmtree(path, **options)

    monkeypatch.setattr(files, "flush_to_disk", flush)
    monkeypatch.setattr(shutil, "rmtree", check)
    with pytest.raises(Stop):
        fit_fold(unfinished, table)


def test_killed_between_the_seal_and_the_removal_of_the_state(
    finished, unfinished, table, monkeypatch, capsys
):
    rmtree = shutil.rmtree

    def stop(path, **options):
        if os.path.basename(path) == "state":
            raise Stop
        rmtree(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", stop)
        train_until_stopped(unfinished, table)
    folder = artifacts.fold_folder(unfinished)
    assert (folder / "state").exists()
    assert list(open_run(unfinished).folders) == [0]
    fit_fold(unfinished, table)
    assert "is finished already" in capsys.readouterr().out
    assert not (folder / "state").exists()
    assert_same(finished / "tiny" / "fold-0", folder)


@pytest.mark.parametrize("name", [full("predictions.csv"), full("result.json"), "manifest.json"])
def test_killed_before_the_seal_the_results_are_written_again(name, finished, unfinished, table, monkeypatch):
    atomic_file = files.atomic_file

    def write(path):
        if path.name == name and path.parent.name == "fold-0":
            raise Stop
        return atomic_file(path)

    with monkeypatch.context() as patch:
        patch.setattr(files, "atomic_file", write)
        train_until_stopped(unfinished, table)
    assert not artifacts.is_finished(artifacts.fold_folder(unfinished))
    assert_same(finished / "tiny" / "fold-0", fit_fold(unfinished, table))


def test_a_killed_run_leaves_no_litter(finished, unfinished, table):
    folder = artifacts.fold_folder(unfinished)
    for name in (".best-x1/new", ".last-x2/new", "state/.step-00000010-x3/new", "../.fold-0-x4/new"):
        (folder / name).mkdir(parents=True)
        (folder / name / "model.safetensors").write_bytes(b"partial")
    (folder / ".history.csv.77.part").write_text("partial")
    (folder / "snapshots").mkdir(exist_ok=True)
    (folder / "snapshots" / ".step-000009.safetensors.77.part").write_text("partial")
    assert_same(finished / "tiny" / "fold-0", fit_fold(unfinished, table))
    hidden = [path.name for path in folder.parent.rglob(".*")]
    assert hidden == [".fold-0.lock"]


def test_killed_between_two_renames_the_finished_fold_comes_back(config, folder, table):
    """As where a training that was to replace it, or a copy of it, was killed in that very moment."""
    started = artifacts.read_metadata(folder)["started"]
    (folder.parent / ".fold-0-abc" / "new").mkdir(parents=True)
    folder.rename(folder.parent / ".fold-0-abc" / "old")
    fit_fold(config, table)
    assert artifacts.read_metadata(folder)["started"] == started
    assert list(open_run(config).folders) == [0]


@pytest.mark.parametrize(
    "overrides",
    [{"encoder": "nobody/nothing"}, {"precision": "fp16"}, {"max_length": 600}, {"swa_every": 100}, "disk"],
    ids=str,
)
def test_retraining_that_cannot_work_leaves_the_old_fold(overrides, config, folder, table, monkeypatch):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    if overrides == "disk":
        usage = shutil.disk_usage(folder)._replace(free=0)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
        monkeypatch.setattr(guards, "disk_needed", lambda training: 2**40)
        overrides = {}
    with pytest.raises(InputError):
        fit_fold(replace(config, retrain=True, **overrides), table)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    open_run(config)


# --- the best weights of an unfinished fold ----------------------------------------------------------------


@pytest.mark.parametrize("damage", ["deleted", "half deleted", "replaced", "between two renames", "newer"])
def test_the_best_weights_come_back_with_the_state(damage, finished, unfinished, state, table):
    folder, whole = artifacts.fold_folder(unfinished), finished / "tiny" / "fold-0"
    best = folder / "best"
    assert best.is_dir()
    assert (state / "best").is_dir()
    if damage == "deleted":
        shutil.rmtree(best)
    elif damage == "half deleted":
        (best / "model.safetensors").unlink()
    elif damage == "between two renames":
        (folder / ".best-abc").mkdir()
        best.rename(folder / ".best-abc" / "old")
    else:
        shutil.rmtree(best)
        shutil.copytree(whole / ("best" if damage == "newer" else "last"), best)
    (folder / "run.json").unlink()
    assert_same(whole, fit_fold(unfinished, table))
    assert artifacts.read_metadata(folder)["config"]["lr"] == 5e-3
    open_run(unfinished)


def test_best_weights_that_were_changed_in_place_are_refused(state, unfinished, table, stopped):
    path = artifacts.fold_folder(unfinished) / "best" / "model.safetensors"
    whole = path.read_bytes()
    with open(path, "r+b") as file:
        file.seek(1000)
        file.write(b"\xff\xff")
    try:
        refused("best/model.safetensors", fit_fold, unfinished, table)
    finally:
        path.write_bytes(whole)  # the session's own file is the same one


def test_a_disk_that_knows_no_links_gets_copies(finished, unfinished, state, table, monkeypatch):
    def no_links(source, target):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    assert_same(finished / "tiny" / "fold-0", fit_fold(unfinished, table))


# --- what is saved is what is loaded ------------------------------------------------------------------------


def test_a_weight_that_is_loaded_otherwise_is_named_and_nothing_is_saved(tiny, tiny_table, monkeypatch):
    """As where the head's norm and an encoder's top-level norm change places."""
    load = artifacts.read_model

    def swapped(folder, **options):
        model = load(folder, **options)
        with torch.no_grad():
            model.head.norm.weight += 1e-6
        return model

    monkeypatch.setattr(artifacts, "read_model", swapped)
    words = r"fold-0/best cannot be written: head.norm.weight is not loaded again .*choose another encoder"
    with pytest.raises(InputError, match=words):
        fit_fold(tiny(), tiny_table)
    folder = artifacts.fold_folder(tiny())
    assert not any((folder / name).exists() for name in artifacts.WEIGHTS)


@pytest.mark.parametrize("wrong", ["scale", full("tokenizer"), full("mode")])
def test_a_saved_model_with_other_scores_does_not_finish_its_fold(wrong, tiny, tiny_table, monkeypatch):
    load = artifacts.load_model

    def load_wrongly(folder):
        model, tokenizer = load(folder)
        if wrong == "scale":
            model.head.scale *= 2
        elif wrong == "tokenizer":
            tokenizer.model_max_length = 8
        else:
            monkeypatch.setattr(model, "eval", model.train)
            model.head.dropout.p = 0.9
        return model, tokenizer

    monkeypatch.setattr(artifacts, "load_model", load_wrongly)
    config = tiny(epochs=6, swa_start=4.0, lr=5e-3, save_every=5)
    words = r"fold-0/last: the saved model's predictions differ from those in training by up to \d.*; choose"
    with pytest.raises(InputError, match=words):
        fit_fold(config, tiny_table)
    folder = artifacts.fold_folder(config)
    assert not artifacts.is_finished(folder)
    assert checkpoint.latest(folder / "state"), "the state is gone"
    monkeypatch.undo()


@pytest.mark.full
def test_rounding_in_half_precision_is_no_difference(tiny, tiny_table, monkeypatch):
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: True)
    folder = fit_fold(tiny(precision="bf16", epochs=6, swa_start=4.0, lr=5e-3), tiny_table)
    written = artifacts.read_predictions(folder)
    texts = tiny_table.set_index("id").loc[written["id"]].reset_index()
    single = predict(folder / "averaged", texts)["target"]
    assert 0 < np.abs(single - written["averaged"]).max() < 0.05 * written["target"].std()


def test_saved_weights_are_sealed_and_name_no_folder(tiny, tiny_table):
    folder = fit_fold(tiny(), tiny_table)
    for weights in artifacts.WEIGHTS:
        sealed = json.loads((folder / weights / "manifest.json").read_text())["content"]["files"]
        assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(sealed)
