"""What the benchmarks share: rates that are the machine's limit, tables of any size, runs in processes of their own."""

import importlib.metadata
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedConfig, RobertaConfig

from utils import precision, runtime, train
from utils.config import Config, InputError, nearest
from utils.data import add_folds, load_table
from utils.model import encoder_source, read_encoder_config

HERE = Path(__file__).parent
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
#: Encoders with random weights, for machines that reach no hub: layers, width, heads.
GEOMETRIES = {"base": (12, 768, 12), "large": (24, 1024, 16)}


def told(main: Callable[[], None]) -> None:
    """Run a benchmark; what the user gave wrong, and a machine that it cannot measure, end it with one sentence."""
    try:
        if not Path("/proc/self/clear_refs").exists() or runtime.device().type not in ("cpu", "cuda"):
            raise InputError("the benchmarks read time and memory as Linux has them, on a CPU or an NVIDIA GPU.")
        main()
    except InputError as error:
        sys.exit(f"InputError: {error}")


def positive(word: str) -> int:
    """A command line's whole number above 0."""
    if int(word) < 1:
        raise ValueError
    return int(word)


def positives(word: str) -> list[int]:
    """Several of them, with commas between."""
    return [positive(part) for part in word.split(",")]


def precisions(word: str) -> list[str]:
    """Precisions of a command line, with commas between. Raises InputError for one that is not to be had here."""
    found, available = word.split(","), precision.available()
    here = [name for name in DTYPES if name in available]
    for name in found:
        if name not in here:
            raise InputError(f"{name} is not to be had here; {nearest(name, here)}")
    return found


def best_precision() -> str:
    """The precision without Apex that this machine trains fastest in."""
    available = precision.available()  # which asks the GPU's tool, and may take a second
    return next(name for name in ("bf16", "fp16", "fp32") if name in available)


# --- limits and costs --------------------------------------------------------------------------------------------


def synchronize() -> None:
    """Wait for what runs on behind our back."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def timed(function: Callable, times: list[float]) -> Callable:
    """``function``, adding the seconds of each call to ``times``, a GPU's work included."""

    def call(*arguments, **options):
        synchronize()
        began = time.perf_counter()
        try:
            return function(*arguments, **options)
        finally:
            synchronize()
            times.append(time.perf_counter() - began)

    return call


def median_seconds(call: Callable[[], object], repeats: int = 10, warm_up: int = 2) -> float:
    """Median seconds of ``repeats`` calls, after ``warm_up`` that do not count.

    On a GPU each is the mean of several that follow each other, as in training, where starting one overlaps another's
    end: else a short one's time would be that of starting it and of waiting.
    """
    calls = 20 if torch.cuda.is_available() else 1
    times = []
    for _ in range(warm_up + repeats):
        synchronize()
        began = time.perf_counter()
        for _ in range(calls):
            call()
        synchronize()
        times.append((time.perf_counter() - began) / calls)
    return statistics.median(times[warm_up:])


def matrix_rate(name: str) -> float:
    """Floating-point operations a second that a large matrix product in this precision reaches here."""
    size = 8192 if torch.cuda.is_available() else 2048
    a, b = (torch.randn(size, size, device=runtime.device()).to(DTYPES[name]) for _ in range(2))
    return 2 * size**3 / median_seconds(lambda: a @ b)


def copy_rate() -> float:
    """Bytes a second, read and written, that copying a large tensor reaches here."""
    size = 2**28 if torch.cuda.is_available() else 2**25  # far more than a cache holds
    source = torch.zeros(size, device=runtime.device())
    target = torch.zeros_like(source)
    return 2 * source.nbytes / median_seconds(lambda: target.copy_(source))


def training_flops(encoder: PreTrainedConfig, lengths: list[int]) -> float:
    """Floating-point operations of the matrix products of a forward and backward pass over texts of these lengths.

    The layers' products with weights and attention's with each other; backward is twice forward. Embeddings and the
    head are left out.
    """
    width, inner = encoder.hidden_size, encoder.intermediate_size
    each = np.asarray(lengths, dtype=float)
    forward = 2 * (4 * width**2 + 2 * width * inner) * each + 4 * width * each**2
    return float(3 * encoder.num_hidden_layers * forward.sum())


def reset_peak() -> float:
    """Begin to watch memory anew. Returns GiB held now: by the GPU's allocator, or by this process on a CPU."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 2**30
    Path("/proc/self/clear_refs").write_text("5")
    return psutil.Process().memory_info().rss / 2**30


def peak_memory() -> float:
    """The most GiB held since ``reset_peak``, or since the start."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    # Not getrusage's, which begins at what the process that started this one had held.
    return int(re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[1]) / 2**20


# --- what is trained ---------------------------------------------------------------------------------------------


def encoder_of(name: str) -> str:
    """What ``Config.encoder`` takes: ``name``, or a folder with random weights in one of GEOMETRIES."""
    if name not in GEOMETRIES:
        return name
    folder = runtime.workspace() / "output" / f"random-{name}"
    if not folder.exists():
        layers, width, heads = GEOMETRIES[name]
        shape = RobertaConfig(
            vocab_size=50265, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
            intermediate_size=4 * width, max_position_embeddings=514, type_vocab_size=2, pad_token_id=0,
        )  # fmt: skip
        random_encoder(shape, folder)
    return str(folder)


def random_encoder(shape: PreTrainedConfig, folder: Path) -> None:
    """An encoder of this shape with random weights, and MiniLM's tokenizer, whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        torch.manual_seed(0)
        AutoModel.from_config(shape).save_pretrained(f"{temporary}/whole")
        AutoTokenizer.from_pretrained(encoder_source("minilm")).save_pretrained(f"{temporary}/whole")
        os.replace(f"{temporary}/whole", folder)


def minilm_shape(**changes) -> PreTrainedConfig:
    return AutoConfig.from_pretrained(encoder_source("minilm"), **changes)


def shape_of(config: Config) -> PreTrainedConfig:
    """The encoder's configuration. Raises InputError for one whose products cannot be counted."""
    shape = read_encoder_config(config.encoder)
    if not hasattr(shape, "intermediate_size"):
        raise InputError(f"the products of a {shape.model_type} encoder cannot be counted; choose one like BERT.")
    return shape


def fixed_step(training: train.Training, batch: int, length: int) -> Callable[[], None]:
    """A whole training step, again and again on ``batch`` random texts of exactly ``length`` tokens."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 20_000, (batch, length), generator=generator)
    inputs = {"input_ids": ids, "token_type_ids": torch.zeros_like(ids), "attention_mask": torch.ones_like(ids)}
    part = inputs, torch.randn(batch, len(training.config.target_columns), generator=generator)

    def step() -> None:
        train.add_gradients(training, [part], batch)
        training.backend.clip(training.config.max_grad_norm)
        training.optimizer.step()
        training.optimizer.zero_grad()
        refuse_parts(training)

    return step


def refuse_parts(training: train.Training) -> None:
    """Raise InputError where memory ran out and batches were taken in parts: that is not what is to be measured."""
    if training.parts > 1:
        raise InputError("the device's memory does not hold a whole batch; measure a smaller one.")


def table_of(config: Config, rows: int) -> pd.DataFrame:
    """``rows`` rows of the data with folds, repeated under new ids where there are fewer."""
    table = load_table(config)
    times = -(-rows // len(table))
    table = pd.concat([table] * times, ignore_index=True).iloc[:rows]
    return add_folds(table.assign(**{config.id_column: [f"row {i}" for i in range(rows)]}), config)


# --- processes and files -----------------------------------------------------------------------------------------


def in_own_process(module: str, *words) -> dict | None:
    """The JSON that ``python -m module words`` prints last; None, and its last words on screen, if it fails.

    It sees one GPU, so that no contestant takes more of them than another.
    """
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    environment = {**os.environ, "BEGAN": str(time.time()), "TOKENIZERS_PARALLELISM": "false",
                   "CUDA_VISIBLE_DEVICES": first}  # fmt: skip
    command = [sys.executable, "-m", module, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=runtime.ROOT)
    if done.returncode:
        said = "\n".join(done.stderr.strip().splitlines()[-4:])
        print(f"{' '.join(command[2:])} ended with {done.returncode}: {said}", flush=True)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def write(name: str, result: dict) -> None:
    """benchmarks/NAME-cpu.json or -cuda.json, for ``python -m benchmarks.results``: what, where, when and how."""
    versions = runtime.versions()
    try:
        versions["lightning"] = importlib.metadata.version("lightning")
    except importlib.metadata.PackageNotFoundError:
        versions["lightning"] = "absent"
    words = [Path(word).name if os.sep in word else word for word in sys.argv[1:]]
    command = f"python -m benchmarks.{name.split('-')[0]} {' '.join(words)}".strip()
    about = {"command": command, "machine": machine(), "date": time.strftime("%Y-%m-%d"), "versions": versions}
    path = HERE / f"{name}-{runtime.device().type}.json"
    path.write_text(json.dumps(about | result, indent=2) + "\n", encoding="utf-8")


def machine() -> str:
    """The GPU's name, or the processor's with its cores and torch's threads."""
    if runtime.device().type != "cpu":
        return runtime.device_name()
    about = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", about.read_text()) if about.exists() else []
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
