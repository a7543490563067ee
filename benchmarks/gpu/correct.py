"""Whether a GPU gives what a CPU gives: precisions, optimizers, memory, resuming, explaining, sharing."""

import importlib.util
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate.utils.other import get_free_port
from safetensors.torch import load_file

from benchmarks.gpu import folds, mechanics
from benchmarks.gpu.record import Check, Record, Skip
from benchmarks.gpu.workers import CPU, Worker, WorkerError
from utils.config import Config
from utils.machine import precision
from utils.runs import artifacts, checkpoint

MODELS = ("tiny", "minilm")
#: The most that predictions after training may differ from the CPU's in fp32, root mean square, as a share
#: of the targets' standard deviation. docs/gpu_check.md says where they come from.
BOUNDS = {"fp32": 0.01, "bf16": 0.1, "fp16": 0.05}
SAVED = 1e-4  # likewise, of the same weights on two devices


class Correct:
    """The checks, and what they share: a folder, folds that were trained, and processes.

    Args:
        folder: for folds; removed afterwards.
    """

    def __init__(self, record: Record, folder: Path):
        self.record, self.folder, self.dry_run = record, folder, record.options.dry_run
        name = folds.__name__
        self.cpu = Worker(name, **CPU)
        self.one, self.two, self.victim = Worker(name), Worker(name), Worker(name)
        self.references: dict[str, Path] | WorkerError | None = None
        chosen = {model: self.chosen(model) | {"precision": "fp32"} for model in MODELS}
        self.cpu.submit(folds.train_all, folder / "cpu", chosen)

    def chosen(self, model: str) -> dict:
        return folds.settings(model, self.dry_run)

    def close(self) -> None:
        for worker in (self.cpu, self.one, self.two, self.victim):
            worker.kill()

    def run(self) -> None:
        """All checks, the most telling first."""
        check = self.record.check
        names = [name for name in ("fp32", "bf16", "fp16") if name in precision.available()]
        for name in names:
            for model in MODELS:
                check(f"{model} trained in {name} predicts as on the CPU", partial(self.trains, model, name))
        for optimizer in mechanics.OPTIMIZERS:
            check(f"{optimizer} steps as its formula", partial(mechanics.check_optimizer, optimizer))
        check("out of memory: halves, and the same gradient", self.memory)
        check("killed with SIGKILL and resumed: the unbroken run's weights", self.resumes)
        check("saved here, loaded on the CPU: the same predictions", self.loads_on_cpu)
        check("explaining: the CPU's gradients and attention", self.explains)
        check("fp16: a step whose gradients overflow is skipped", mechanics.check_overflow)
        check("two folds share the card", self.two_folds)
        check("two processes share one fold and the card (gloo)", self.two_processes)
        check("explaining through LIT's model", self.explains_in_lit)
        check("two processes on one card by NCCL", self.nccl)

    # --- the checks ----------------------------------------------------------------------------------------

    def trains(self, model: str, name: str) -> list[Check]:
        run = f"{model}-{name}"
        folder = folds.train(self.folder / "gpu", run=run, **self.chosen(model), precision=name)
        reference = self.reference(model)
        scores = [artifacts.read_result(path)["scores"]["last"]["rmse"] for path in (folder, reference)]
        self.record.update(rmse=self.record.content.get("rmse", {}) | {f"{model} {name}": scores})
        skipped = Check("skipped steps", folds.skipped_steps(folder) if name == "fp16" else 0, 0)
        return [skipped] * (name == "fp16") + [
            Check(
                f"difference of {weights} predictions", difference(folder, reference, weights), BOUNDS[name]
            )
            for weights in ("last", "averaged")
        ]

    def reference(self, model: str) -> Path:
        """The fold that the CPU trained."""
        if self.references is None:
            try:
                self.references = self.cpu.result(self.record.seconds_left())
            except WorkerError as error:
                self.references = error
        if isinstance(self.references, WorkerError):  # would be waited for in vain by each check
            raise self.references
        return self.references[model]

    def gpu_fold(self) -> Path:
        """The fold of the larger model that this device trained in fp32."""
        return artifacts.fold_folder(
            Config.make(
                output_dir=str(self.folder / "gpu"), run=f"{MODELS[-1]}-fp32", **self.chosen(MODELS[-1])
            )
        )

    def memory(self) -> list[Check]:
        model, size = ("tiny", 8) if self.dry_run else ("minilm", 64)
        return mechanics.check_memory(**self.chosen(model) | {"batch_size": size, "run": "memory"})

    def resumes(self) -> list[Check]:
        train = partial(folds.train, self.folder / "killed", preset="tiny", precision="fp32", **folds.KILLED)
        whole, again = (train(run=run) for run in ("whole", "again"))
        self.victim.submit(train, run="broken", save_every=1)
        state = whole.parent.parent / "broken" / whole.name / "state"
        stopped, now = self.kill_after(5, state), datetime.now(UTC).isoformat()
        broken = train(run="broken", save_every=1)
        what = f"largest difference of a weight, killed after step {stopped},"
        began_anew = artifacts.read_metadata(broken)["started"] > now
        return [
            Check(what, weight_difference(whole, broken), 10 * weight_difference(whole, again)),
            Check("begun anew instead of resumed", began_anew, 0),
        ]

    def kill_after(self, step: int, state: Path) -> int:
        """Kill the victim once it has saved the state of this step or a later one; that state's step."""
        deadline = time.perf_counter() + min(60, self.record.seconds_left())
        while time.perf_counter() < deadline:
            latest = checkpoint.latest(state)
            if latest is not None and (number := int(latest.name.split("-")[1])) >= step:
                self.victim.kill()
                return number
            time.sleep(0.002)
        raise TimeoutError("the training that was to be killed saved no state")

    def loads_on_cpu(self) -> list[Check]:
        folder = self.gpu_fold()
        here, there = folds.predictions(folder), self.on_cpu(folds.predict_again, folder)
        return [Check("difference of predictions", share(here - there, folder), SAVED)]

    def explains(self) -> list[Check]:
        folder, texts = self.gpu_fold(), self.texts()
        here, there = folds.explain(folder, texts), self.on_cpu(folds.explain, folder, texts)
        return [
            Check(f"relative difference of {name}", relative(here[name], there[name]), 1e-3) for name in here
        ]

    def explains_in_lit(self) -> list[Check]:
        if importlib.util.find_spec("lit_nlp") is None:
            raise Skip("lit-nlp is not installed; the explainer that its model calls was checked by itself")
        folder, texts = self.gpu_fold(), self.texts()
        here = folds.explain_in_lit(folder, texts)
        there = self.on_cpu(folds.explain, folder, texts)["gradients"]
        return [Check("relative difference of gradients", relative(here, there), 1e-3)]

    def two_folds(self) -> list[Check]:
        chosen = self.chosen("tiny") | {"precision": "fp32"}
        for fold, worker in enumerate((self.one, self.two)):
            worker.submit(folds.train, self.folder / "beside", run="beside", fold=fold, **chosen)
        beside = [worker.result(self.record.seconds_left()) for worker in (self.one, self.two)]
        measured = difference(beside[0], self.reference("tiny"))
        return [Check("difference of fold 0's predictions from the CPU's", measured, BOUNDS["fp32"])]

    def two_processes(self) -> list[Check]:
        chosen, port = self.chosen("tiny") | {"precision": "fp32"}, get_free_port()
        for rank, worker in enumerate((self.one, self.two)):
            worker.submit(folds.train_in_share, rank, port, self.folder / "shared", run="shared", **chosen)
        folder, _ = (worker.result(min(90, self.record.seconds_left())) for worker in (self.one, self.two))
        measured = difference(folder, self.reference("tiny"))
        return [Check("difference of predictions from one CPU process's", measured, BOUNDS["fp32"])]

    def nccl(self) -> list[Check]:
        """Cannot fail: NCCL is known to refuse two ranks on a card, and this says what it does."""
        if not torch.cuda.is_available():
            raise Skip("NCCL needs a CUDA GPU")
        port = get_free_port()
        for rank, worker in enumerate((self.one, self.two)):
            worker.submit(folds.try_nccl, rank, port)
        said, _ = (worker.result(min(30, self.record.seconds_left())) for worker in (self.one, self.two))
        raise Skip(f"NCCL said: {said}")

    # --- helpers -------------------------------------------------------------------------------------------

    def on_cpu(self, function, *arguments):
        """What ``function`` returns in the process that sees no GPU."""
        self.reference(MODELS[-1])  # its results come first
        return self.cpu.call(function, *arguments, seconds=self.record.seconds_left())

    def texts(self) -> list[str]:
        return folds.held_out(self.gpu_fold())["excerpt"].tolist()[:6]


def difference(a: Path, b: Path, weights: str = "last") -> float:
    """How far the predictions of two folds lie apart, as ``share`` has it."""
    return share(folds.predictions(a, weights) - folds.predictions(b, weights), a)


def share(differences: np.ndarray, folder: Path) -> float:
    """Their root mean square, as a share of the standard deviation of a fold's targets."""
    return float(np.sqrt(np.mean(differences**2)) / folds.predictions(folder, "target").std())


def relative(a: np.ndarray, b: np.ndarray) -> float:
    """The norm of a - b, relative to that of b."""
    return float(np.linalg.norm(a.astype(float) - b) / np.linalg.norm(b.astype(float)))


def weight_difference(a: Path, b: Path) -> float:
    """The largest absolute difference of a weight of two folds, last or averaged."""
    largest = 0.0
    for weights in ("last", "averaged"):
        first, second = (load_file(folder / weights / "model.safetensors") for folder in (a, b))
        largest = max(largest, *(float((first[name] - second[name]).abs().max()) for name in first))
    return largest


def run(record: Record, folder: Path) -> None:
    """The part "correct"."""
    checks = Correct(record, folder)
    try:
        checks.run()
    finally:
        checks.close()
