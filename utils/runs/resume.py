"""Resuming a fold where an earlier run was stopped: what is saved, compared and restored."""

import os
import shutil
from pathlib import Path

import torch
from accelerate.utils import gather_object

from utils.config import Config, InputError
from utils.machine import distributed, runtime
from utils.machine.encoders import trained_folder
from utils.machine.files import atomic_folder, write_json
from utils.runs import artifacts, checkpoint, samples
from utils.runs.progress import Progress, current_weights
from utils.runs.seal import RETRAIN, verify
from utils.training.setup import Training

OPTIMIZER = "optimizer.safetensors"


def earlier_output(config: Config) -> Path | None:
    """This fold's folder under ``config.resume_from``: the fold's folder, its run's, or one above them.

    None where that holds other folds only. Raises InputError where it holds none at all: a mistaken path must
    not begin a training anew.
    """
    if not config.resume_from:
        return None
    root, name = Path(config.resume_from), f"fold-{config.fold}"
    candidates = [root, root / name, root / config.run_name / name, root / "output" / config.run_name / name]
    possible = [folder for folder in candidates if os.path.isdir(folder.parent)]
    for folder in possible:
        if folder.name == name and artifacts.is_fold(folder):
            return folder
    others = [other for folder in possible if folder != root for other in folder.parent.glob("fold-*")]
    if not any(map(artifacts.is_fold, others)):
        raise InputError(
            f"resume_from={config.resume_from!r} holds no fold of run {config.run_name!r}; check the path."
        )
    return None


def read_started(folder: Path) -> dict:
    """What a fold was begun with: its run.json, or the copy of it in the state of an unfinished one."""
    state = None if artifacts.is_finished(folder) else checkpoint.latest(folder / "state")
    return verify(state)["metadata"] if state else artifacts.read_metadata(folder)


def check_second_stage(config: Config, data: str) -> None:
    """Raise InputError for a fold as encoder that is damaged, or has seen what this one holds out."""
    folder = trained_folder(config.encoder)
    if folder is None:
        return
    verify(folder)
    if not (folder.parent / "run.json").is_file():
        return
    metadata = artifacts.read_metadata(folder.parent)
    fold = metadata["config"]["fold"]
    if metadata["data"]["fingerprint"] == data and fold != config.fold:
        raise InputError(
            f"encoder={config.encoder!r} is fold {fold} of the same data, trained on rows that fold "
            f"{config.fold} holds out; name the weights of fold {config.fold}."
        )


def check_same_training(
    metadata: dict, config: Config, fingerprint: str, where: Path, precision: str = ""
) -> None:
    """Raise InputError, naming the changes, if ``metadata`` tells of another training than this one."""
    new, old = config.to_dict(), metadata.get("config", {})
    changes = [f"{name} (was {old.get(name)!r}, is {new[name]!r})" for name in config.differences(old)]
    if metadata.get("data", {}).get("fingerprint") != fingerprint:
        changes.append("the data")
    if precision and metadata.get("precision", {}).get("name") != precision:
        changes.append(f"precision (was {metadata['precision']['name']}, here {precision})")
    if changes:
        raise InputError(
            f"{runtime.display_path(where)} holds another training: {', '.join(changes)}; "
            f"set run to train beside it, or {RETRAIN}"
        )


def resume(training: Training, folder: Path, metadata: dict) -> Progress | None:
    """Restore the last saved state, here or under ``resume_from``; None if there is none."""
    path = distributed.run_on_main(lambda: last_state(training, folder, metadata))
    if path is None:
        return None
    saved = checkpoint.load(path)
    metadata["started"] = saved.metadata["started"]  # the same training, in another session
    progress = restore(training, saved)
    distributed.run_on_main(lambda: restore_files(saved, folder, path))
    runtime.say(
        f"Fold {training.config.fold}: going on from step {saved.step} of {training.total_steps}, "
        f"{training.choice.name} on {metadata['device']}."
    )
    return progress


def last_state(training: Training, folder: Path, metadata: dict) -> Path | None:
    """The state to resume from, of this very training, copied here if it lay under ``resume_from``."""
    config = training.config
    if config.retrain:
        return None
    folders = [path for path in (folder, earlier_output(config)) if path is not None]
    states = [state for path in folders if (state := checkpoint.latest(path / "state"))]
    if not states:
        return None
    state = max(states, key=lambda path: path.name)
    source = state.parent.parent
    check_same_training(
        read_started(source), config, metadata["data"]["fingerprint"], source, training.choice.name
    )
    if source != folder:
        fetch(source, folder, state)
    return folder / "state" / state.name


def fetch(source: Path, folder: Path, state: Path | None = None) -> None:
    """Copy an earlier session's fold, which may be read-only, with one of its states alone."""
    with atomic_folder(folder) as new:
        shutil.copytree(source, new, ignore=shutil.ignore_patterns("state"), dirs_exist_ok=True)
        new.chmod(0o755)
        if state is not None:
            shutil.copytree(state, new / "state" / state.name)


def save_state(training: Training, folder: Path, metadata: dict, progress: Progress) -> None:
    """Save everything that going on needs, so that it goes on as if it had not been stopped."""
    weights = {"model.safetensors": current_weights(training, training.model)}
    if training.averager is not None:
        weights["average.safetensors"] = training.averager.state_dict()
    optimizer, weights[OPTIMIZER] = split(training.rates.optimizer.state_dict())
    rest = {
        "optimizer": optimizer,
        "rates": training.rates.state_dict(),
        "scaler": training.backend.state_dict(),
        "random": gather_object([runtime.random_states(training.backend.device)]),  # of every process
        "losses": torch.stack(training.losses).cpu() if training.losses else torch.zeros(0),
        "rows": progress.rows,
        "best": None if progress.best is None else torch.from_numpy(progress.best),
        "seconds": progress.seconds,
    }
    best = None if progress.best is None else folder / "best"
    saved = checkpoint.Checkpoint(training.step, metadata, weights, rest, best)
    distributed.run_on_main(lambda: checkpoint.save(folder / "state", saved))
    progress.saved = progress.seconds


def split(state: dict) -> tuple[dict, dict[str, torch.Tensor]]:
    """An optimizer's state without the tensors of its parameters, and these tensors as "<parameter>.<name>".

    safetensors writes them three times as fast as torch does.
    """
    tensors = {
        f"{parameter}.{name}": value
        for parameter, values in state["state"].items()
        for name, value in values.items()
        if isinstance(value, torch.Tensor)
    }
    numbers = {
        parameter: {name: value for name, value in values.items() if f"{parameter}.{name}" not in tensors}
        for parameter, values in state["state"].items()
    }
    return {**state, "state": numbers}, tensors


def join(state: dict, tensors: dict[str, torch.Tensor]) -> dict:
    """What ``split`` was given."""
    for key, value in tensors.items():
        parameter, name = key.split(".", maxsplit=1)
        state["state"][int(parameter)][name] = value
    return state


def restore_files(saved: checkpoint.Checkpoint, folder: Path, state: Path) -> None:
    """Bring run.json, samples and best/ to what they were when ``state`` was saved."""
    write_json(folder / "run.json", saved.metadata)
    samples.trim(folder / artifacts.SAMPLES, saved.step)
    if saved.best is not None:
        checkpoint.copy_best(saved.best, folder / "best")
    checkpoint.prune(state.parent, keep=state)


@torch.no_grad()
def restore(training: Training, saved: checkpoint.Checkpoint) -> Progress:
    """Bring ``training`` to the state that ``save_state`` saved."""
    model, rest, values = training.model, saved.rest, saved.weights["model.safetensors"]
    for weight, (name, parameter) in zip(training.backend.weights(), model.named_parameters(), strict=True):
        weight.copy_(values[name])
        parameter.copy_(values[name])  # the same tensor, but for Apex O2's float16 copies
    for name, buffer in model.named_buffers():
        if name in values:
            buffer.copy_(values[name])
    if training.averager is not None:
        training.averager.load_state_dict(saved.weights["average.safetensors"])
    training.rates.load_state_dict(rest["rates"])
    optimizer = join(rest["optimizer"], saved.weights.get(OPTIMIZER, {}))  # older states have it in the rest
    training.rates.optimizer.load_state_dict(optimizer)
    training.backend.load_state_dict(rest["scaler"])
    training.losses = list(rest["losses"].to(training.backend.device))
    training.step = saved.step
    process = distributed.processes().process_index
    if process < len(
        rest["random"]
    ):  # on more devices than before, the new ones begin with seeds of their own
        runtime.restore_random_states(rest["random"][process], training.backend.device)
    best = None if rest["best"] is None else rest["best"].numpy()
    return Progress(rest["rows"], best, seconds=rest["seconds"], saved=rest["seconds"])
