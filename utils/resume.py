"""Going on where an earlier run of the same fold was stopped: what is saved, what is compared, what is brought back."""

import math
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import gather_object

from utils import devices, runtime, state
from utils.config import Config, InputError
from utils.model import TextRegressor
from utils.train import Training


@dataclass
class Progress:
    """What a fold has come to, beside its weights."""

    rows: list[dict] = field(default_factory=list)  # of history.csv
    best: np.ndarray | None = None  # held-out predictions of the weights in best/
    best_digest: str = ""  # sha256 of these weights
    seconds: float = 0.0  # of training, in all sessions
    saved: float = 0.0  # seconds at which the last state was saved
    predictions: dict[str, np.ndarray] = field(default_factory=dict)  # of the last evaluation

    def stale(self, config: Config) -> int:
        """Evaluations since the best one, by the score that ``patience_on`` names."""
        column = "swa_rmse" if config.patience_on == "averaged" else "rmse"
        scores = [row[column] for row in self.rows if not math.isnan(row[column])]
        return len(scores) - 1 - int(np.argmin(scores)) if scores else 0


def earlier_output(config: Config) -> Path | None:
    """This fold's folder under ``config.resume_from``, which may be it, the run's, or the output folder above them.

    None where that holds other folds only. Raises InputError where it holds none at all: a mistaken path must not
    begin a training anew.
    """
    if not config.resume_from:
        return None
    root, name = Path(config.resume_from), f"fold-{config.fold}"
    places = [root, root / name, root / config.run_name / name, root / "output" / config.run_name / name]
    for place in places:
        if place.name == name and (place / "config.json").is_file():
            return place
    if not any(other for place in places[1:] for other in place.parent.glob("fold-*/config.json")):
        raise InputError(
            f"resume_from={config.resume_from!r} holds no fold of run {config.run_name!r}; check the path."
        )
    return None


def refuse_changes(about: dict, config: Config, fingerprint: str, where: Path, precision: str = "") -> None:
    """Raise InputError if ``about`` tells of another training than ``config`` on these data, naming what differs."""
    own, other = config.to_dict(), about.get("config", {})
    changes = [f"{name} (was {other.get(name)!r}, is {own[name]!r})" for name in config.differences(other)]
    if about.get("data", {}).get("fingerprint") != fingerprint:
        changes.append("the data")
    if precision and about.get("precision", {}).get("name") != precision:
        changes.append(f"precision (was {about['precision']['name']}, here {precision})")
    if changes:
        raise InputError(
            f"{runtime.shown(where)} holds another training: {', '.join(changes)}; "
            "set run to train beside it, or retrain=True to replace it."
        )


def resume(training: Training, folder: Path, about: dict) -> Progress | None:
    """Bring ``training`` back to the last saved state, here or under ``resume_from``; None where there is none."""
    newest = devices.on_main(lambda: last_state(training, folder, about))
    if newest is None:
        return None
    saved = state.load(newest)
    progress = restore(training, saved, folder)
    devices.on_main(lambda: state.prune(newest.parent, keep=newest))
    print(
        f"Fold {training.config.fold}: going on from step {saved.step} of {training.total_steps}, "
        f"{training.choice.name} on {about['device']}."
    )
    return progress


def last_state(training: Training, folder: Path, about: dict) -> Path | None:
    """The state to go on from, proven to be of this training, and copied here where it lay under ``resume_from``."""
    config = training.config
    if config.retrain:
        return None
    places = [place for place in (folder, earlier_output(config)) if place is not None]
    states = [found for place in places if (found := state.newest(place / "state"))]
    if not states:
        return None
    newest = max(states, key=lambda path: path.name)
    content = state.read_manifest(newest)
    refuse_changes(content["about"], config, about["data"]["fingerprint"], newest.parent.parent, training.choice.name)
    if newest.parent.parent != folder:
        fetch(newest.parent.parent, folder, newest)
    return folder / "state" / newest.name


def fetch(source: Path, folder: Path, newest: Path | None = None) -> None:
    """Copy an earlier session's fold, which may be read-only, with its last state alone; it appears when whole."""
    whole = folder.parent / f".{folder.name}.part"
    shutil.rmtree(whole, ignore_errors=True)
    try:
        shutil.copytree(source, whole, ignore=shutil.ignore_patterns("state"))
        if newest is not None:
            shutil.copytree(newest, whole / "state" / newest.name)
    except OSError:
        shutil.rmtree(whole, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(whole, folder)


def save_state(training: Training, folder: Path, about: dict, progress: Progress) -> None:
    """Save everything that going on needs, so that it goes on as if it had not been stopped."""
    weights = {"model.safetensors": current_weights(training, training.model)}
    if training.averager is not None:
        weights["average.safetensors"] = training.averager.state_dict()
    rest = {
        "optimizer": training.rates.optimizer.state_dict(),
        "rates": training.rates.state_dict(),
        "scaler": training.backend.state_dict(),
        "random": gather_object([runtime.random_states(training.backend.device)]),  # of every process
        "losses": torch.stack(training.losses).cpu() if training.losses else torch.zeros(0),
        "rows": progress.rows,
        "best": None if progress.best is None else torch.from_numpy(progress.best),
        "best_digest": progress.best_digest,
        "seconds": progress.seconds,
    }
    devices.on_main(lambda: state.save(folder / "state", state.State(training.step, about, weights, rest)))
    progress.saved = progress.seconds


@torch.no_grad()
def restore(training: Training, saved: state.State, folder: Path) -> Progress:
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
    training.rates.optimizer.load_state_dict(rest["optimizer"])
    training.backend.load_state_dict(rest["scaler"])
    training.losses = list(rest["losses"].to(training.backend.device))
    training.step = saved.step
    process = devices.processes().process_index
    if process < len(rest["random"]):  # on more devices than before, the new ones begin with seeds of their own
        runtime.restore_random_states(rest["random"][process], training.backend.device)
    progress = Progress(rest["rows"], seconds=rest["seconds"], saved=rest["seconds"])
    # Killed after writing best/ and before its state, a run left newer weights there than it remembers. Going on, it
    # comes to that evaluation again, which must then count as the best.
    if rest["best"] is not None and state.digest(folder / "best" / "model.safetensors") == rest["best_digest"]:
        progress.best, progress.best_digest = rest["best"].numpy(), rest["best_digest"]
    return progress


def current_weights(training: Training, model: TextRegressor) -> dict[str, torch.Tensor]:
    """``model``'s weights, as the float32 ones that the optimizer steps if it is the one in training."""
    weights = dict(model.state_dict())
    if model is training.model:
        names = [name for name, _ in model.named_parameters()]
        weights |= zip(names, training.backend.weights(), strict=True)
    return weights
