"""Training speed on a GPU beside the alternatives, at the shapes of roberta-base and roberta-large."""

import contextlib
import gc
import importlib.util
import statistics
import sys
from argparse import Namespace
from pathlib import Path

import pandas as pd
import torch

from benchmarks import common, measure, quality, throughput, whole_fold
from benchmarks.contestants import NAMES, Setting
from benchmarks.gpu.record import Options, Record
from benchmarks.gpu.workers import Worker, WorkerError
from utils.config import Config
from utils.machine import precision
from utils.tasks import load_table

#: Encoder, batch size and length, the most telling first.
SHAPES = [
    ("base", 4, 128),
    ("large", 32, 256),
    ("base", 16, 256),
    ("large", 4, 128),
    ("base", 32, 256),
    ("large", 16, 256),
]
TURNS = 2
ORDER = ("ours", "published", "trainer", "lightning")
NEEDS = {"published": "madgrad", "lightning": "lightning"}  # packages, besides those of all


class Workers:
    """A process for each contestant, all started at once, and one for the demo's fold."""

    def __init__(self):
        missing = {name for name, package in NEEDS.items() if importlib.util.find_spec(package) is None}
        self.workers = {name: self.start() for name in [*ORDER, "demo"] if name not in missing}

    def start(self) -> Worker:
        return Worker(__name__, TOKENIZERS_PARALLELISM="true")  # measured alone, so it may use all cores

    def call(self, name: str, function, *arguments, seconds: float):
        """What ``function`` returns in a contestant's process; after an error the process is a new one."""
        if name not in self.workers:
            raise WorkerError(f"{NEEDS[name]} is not installed")
        try:
            return self.workers[name].call(function, *arguments, seconds=seconds)
        except WorkerError:
            self.workers[name].kill()
            self.workers[name] = self.start()
            raise

    def close(self) -> None:
        for worker in self.workers.values():
            worker.kill()


# --- in the workers ----------------------------------------------------------------------------------------


def one(name: str, setting: Setting, steps: int) -> dict:
    """Measure a contestant, and leave the GPU's memory to the next one."""
    try:
        return throughput.one(name, setting, steps)
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def limits(name: str) -> float:
    """FLOP/s of a large matrix product in a precision."""
    return measure.matrix_rate(name, repeats=3)


def demo_fold(preset: str, encoder: str) -> dict:
    """Seconds of a whole fold of the preset, evaluations and saving included, and of its parts."""
    arguments = Namespace(preset=preset, encoder=encoder, data=None, rows=0, fold=1)
    measured = quality.ours(arguments)
    return {name: measured[name] for name in ("precision", "whole", "spent")} | {"preset": preset}


def whole_fold_of(name: str, preset: str, encoder: str) -> dict:
    """A contestant's fold of the preset as benchmarks.whole_fold has it: seconds, steps, peak memory."""
    chosen = {"preset": preset, "encoder": encoder, "data": None, "rows": 0, "epochs": 0}
    return whole_fold.one(name, Namespace(**chosen, precision=common.best_precision()))


# --- the part ----------------------------------------------------------------------------------------------


def long_texts(path: Path) -> Path:
    """The sample with four texts in each row, under CLEAR's column names: none is shorter than 256 tokens."""
    table = load_table(Config.make("demo"))
    texts = table["excerpt"].tolist()
    joined = [" ".join(texts[(i + k) % len(texts)] for k in range(4)) for i in range(len(texts))]
    pd.DataFrame(
        {"id": table["id"], "excerpt": joined, "target": table["target"], "url_legal": table["topic"]}
    ).to_csv(path, index=False)
    return path


def plan(data: Path, options: Options) -> list[tuple[Setting, int]]:
    """Settings and their timed steps: the fastest precision at all shapes, then the others."""
    if options.dry_run:
        return [(Setting(str(data), "tiny", 2, 16, "fp32", rows=40), 2)]
    names = [name for name in ("bf16", "fp16", "fp32") if name in precision.available()]
    return [
        (Setting(str(data), encoder, batch, length, name, rows=1024), 60 if batch * length <= 512 else 20)
        for name in names
        for encoder, batch, length in SHAPES
    ]


class Fast:
    """The part's measurements so far, and how to take the next one."""

    def __init__(self, record: Record, data: Path):
        self.record, self.workers = record, Workers()
        self.plan = plan(data, record.options)
        self.settings: list[dict] = []
        self.rates: dict[str, float] = {}  # of large matrix products
        self.published: dict[tuple, dict] = {}  # it knows fp32 alone, so its speed depends on the shape only

    def run(self) -> None:
        """All settings once, the demo's fold after the first two, then all again, as far as time goes."""
        demo = ("tiny", "tiny") if self.record.options.dry_run else ("demo", common.find_minilm())
        for turn in range(TURNS):
            self.rates, self.published = {}, {}
            for i, (setting, steps) in enumerate(self.plan):
                if self.record.seconds_left() < 5:
                    self.write(missing=self.plan[i:] if turn == 0 else [])
                    return
                self.measure(i, setting, steps)
                if turn == 0 and i == min(1, len(self.plan) - 1):
                    self.measure_demo(*demo)

    def write(self, missing: list[tuple[Setting, int]]) -> None:
        self.record.update(settings=self.settings, not_measured=[label(setting) for setting, _ in missing])

    def measure(self, number: int, setting: Setting, steps: int) -> None:
        """A turn of one setting, written after each contestant."""
        if number == len(self.settings):
            with contextlib.redirect_stdout(sys.stderr):
                described = throughput.describe_setting(setting, steps)
            self.settings.append({**described, "turns": [], "phases": None, "errors": {}})
        entry = self.settings[number]
        try:
            entry["turns"].append({"limits": self.limits(setting), "runs": dict.fromkeys(NAMES)})
        except WorkerError as error:
            entry["errors"]["ours"] = f"no matrix rate: {error}"
            return
        for name in ORDER:
            try:
                entry["turns"][-1]["runs"][name] = self.speed(name, setting, steps)
            except WorkerError as error:
                entry["errors"][name] = str(error)
            self.write(missing=self.plan[len(self.settings) :])
        runs = entry["turns"][-1]["runs"]
        speeds = [f"{name} {run['tokens_per_second']:,.0f}" for name, run in runs.items() if run]
        print(f"{label(setting)}: {', '.join(speeds)} tokens/s", flush=True)

    def speed(self, name: str, setting: Setting, steps: int) -> dict:
        """One contestant's measurement; the published loop's is shared by all precisions."""
        shape = (setting.encoder, setting.batch, setting.length)
        if name == "published" and shape in self.published:
            return self.published[shape]
        seconds = min(60, self.record.seconds_left() + 5)
        run = self.workers.call(name, one, name, setting, steps, seconds=seconds)
        if name == "published":
            self.published[shape] = run
        return run

    def limits(self, setting: Setting) -> dict[str, float]:
        """The matrix rates of fp32, for the published loop, and of the setting's precision."""
        for name in ("fp32", setting.precision):
            if name not in self.rates:
                self.rates[name] = self.workers.call("ours", limits, name, seconds=60)
        return {name: self.rates[name] for name in ("fp32", setting.precision)}

    def measure_demo(self, preset: str, encoder: str) -> None:
        try:
            fold = self.workers.call("demo", demo_fold, preset, encoder, seconds=60)
        except WorkerError as error:
            fold = {"preset": preset, "error": str(error)}
        self.record.update(demo=fold)
        self.compare_folds(preset, encoder)

    def compare_folds(self, preset: str, encoder: str) -> None:
        """The fold by each contestant of benchmarks.whole_fold, in turns, in the processes of the others."""
        runs: dict[str, list[float]] = {name: [] for name in whole_fold.NAMES}
        for _ in range(TURNS):
            for name, seconds in runs.items():
                worker = name if name in self.workers.workers else "ours"
                if (name == "lightning" and worker != name) or self.record.seconds_left() < 5:
                    continue
                try:
                    done = self.workers.call(worker, whole_fold_of, name, preset, encoder, seconds=60)
                except WorkerError as error:
                    self.record.content["demo"].setdefault("errors", {})[name] = str(error)
                    continue
                seconds.append(done["seconds"])
                self.record.update(demo=self.record.content["demo"] | {"folds": runs})
        medians = {whole_fold.NAMES[name]: statistics.median(all_) for name, all_ in runs.items() if all_}
        said = ", ".join(f"{name} {seconds:.1f}" for name, seconds in medians.items())
        print(f"a whole fold of {preset}: {said} s", flush=True)


def label(setting: Setting) -> str:
    return f"{setting.encoder} {setting.batch} × {setting.length} {setting.precision}"


def run(record: Record, folder: Path) -> None:
    """The part "fast"."""
    fast = Fast(record, long_texts(folder / "texts.csv"))
    try:
        for encoder in dict.fromkeys(setting.encoder for setting, _ in fast.plan):
            common.find_encoder(encoder)  # made once, rather than by every process, which start meanwhile
        fast.run()
    finally:
        fast.workers.close()
