"""What the benchmarks share: options, what is trained, processes of their own, and JSON files of results."""

import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedConfig, RobertaConfig

from benchmarks.measure import DTYPES
from utils.config import Config, InputError, nearest
from utils.data.tokens import Batch
from utils.machine import precision, runtime
from utils.machine.encoders import MINILM_PACKAGE, encoder_source, read_encoder_config
from utils.tasks import add_folds, load_table
from utils.training import loop
from utils.training.memory import retry_in_smaller_parts
from utils.training.setup import Training

FOLDER = Path(__file__).parent
#: Encoders with random weights, for machines without access to a hub: layers, width, heads.
SHAPES = {"base": (12, 768, 12), "large": (24, 1024, 16)}


# --- the command line --------------------------------------------------------------------------------------


def run_main(main: Callable[[], None]) -> None:
    """Run a benchmark. An InputError, or a machine that cannot be measured, ends it with one sentence."""
    try:
        if not Path("/proc/self/clear_refs").exists() or runtime.device().type not in ("cpu", "cuda"):
            raise InputError("the benchmarks need Linux, which reports memory, and a CPU or an NVIDIA GPU.")
        main()
    except InputError as error:
        sys.exit(f"InputError: {error}")


def positive(word: str) -> int:
    """A whole number above 0."""
    if int(word) < 1:
        raise ValueError
    return int(word)


def positives(word: str) -> list[int]:
    """Whole numbers above 0, separated by commas."""
    return [positive(part) for part in word.split(",")]


def parse_precisions(word: str) -> list[str]:
    """Names of precisions, separated by commas. Raises InputError for one that is not available here."""
    names, available = word.split(","), precision.available()
    measurable = [name for name in DTYPES if name in available]
    for name in names:
        if name not in measurable:
            raise InputError(f"precision {name} is not available here; {nearest(name, measurable)}")
    return names


def best_precision() -> str:
    """The fastest precision for training on this machine without Apex."""
    available = precision.available()  # may take a second: it runs nvidia-smi
    return next(name for name in ("bf16", "fp16", "fp32") if name in available)


# --- what is trained ---------------------------------------------------------------------------------------


def find_encoder(name: str) -> str:
    """A value for ``Config.encoder``: ``name``, or for a name in SHAPES a folder with random weights."""
    if name not in SHAPES:
        return name
    folder = runtime.workspace() / "output" / f"random-{name}"
    if not folder.exists():
        layers, width, heads = SHAPES[name]
        shape = RobertaConfig(
            vocab_size=50265,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=4 * width,
            max_position_embeddings=514,
            type_vocab_size=2,
            pad_token_id=0,
        )
        save_random_encoder(shape, folder)
    return str(folder)


def find_minilm() -> str:
    """A value for ``Config.encoder``: "minilm", or without its package the copy in the folder of wheels.

    Raises InputError where neither is there.
    """
    copy = Path(os.environ.get("WHEELS", runtime.workspace() / "output" / "gpu-wheels")) / "minilm"
    if importlib.util.find_spec(MINILM_PACKAGE) is None and copy.is_dir():
        return str(copy.resolve())
    encoder_source("minilm")
    return "minilm"


def save_random_encoder(shape: PreTrainedConfig, folder: Path) -> None:
    """Write an encoder of this shape with random weights, and MiniLM's tokenizer; all of it or nothing."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        torch.manual_seed(0)
        AutoModel.from_config(shape).save_pretrained(f"{temporary}/whole")
        AutoTokenizer.from_pretrained(encoder_source(find_minilm())).save_pretrained(f"{temporary}/whole")
        os.replace(f"{temporary}/whole", folder)


def minilm_shape(**changes) -> PreTrainedConfig:
    """MiniLM's configuration, with changes."""
    return AutoConfig.from_pretrained(encoder_source("minilm"), **changes)


def encoder_shape(config: Config) -> PreTrainedConfig:
    """The encoder's configuration. Raises InputError if the encoder's operations cannot be counted."""
    shape = read_encoder_config(config.encoder)
    if not hasattr(shape, "intermediate_size"):
        raise InputError(
            f"the operations of a {shape.model_type} encoder cannot be counted; choose one like BERT."
        )
    return shape


def make_table(config: Config, rows: int) -> pd.DataFrame:
    """``rows`` rows of the data with folds; if the data have fewer, rows are repeated under new ids."""
    table = load_table(config)
    copies = -(-rows // len(table))
    table = pd.concat([table] * copies, ignore_index=True).iloc[:rows]
    table = table.assign(**{config.id_column: [f"row {i}" for i in range(rows)]})
    return add_folds(table, replace(config, exact_copies="split"))


def fixed_step(training: Training, batch_size: int, length: int) -> Callable[[], None]:
    """A function that takes one whole training step, always on the same random texts of ``length`` tokens."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 20_000, (batch_size, length), generator=generator)
    inputs = {
        "input_ids": ids,
        "token_type_ids": torch.zeros_like(ids),
        "attention_mask": torch.ones_like(ids),
    }
    targets = torch.randn(batch_size, len(training.config.target_columns), generator=generator)
    batch = Batch(inputs, targets, extras={})

    def step() -> None:
        retry_in_smaller_parts(training, [batch], loop.add_gradients)
        training.backend.clip(training.config.max_grad_norm)
        training.optimizer.step()
        training.optimizer.zero_grad()
        check_whole_batches(training)

    return step


def check_whole_batches(training: Training) -> None:
    """Raise InputError if memory ran out and batches were split, since that would measure something else."""
    if training.parts > 1:
        raise InputError("the device's memory does not hold a whole batch; measure a smaller one.")


# --- processes and files -----------------------------------------------------------------------------------


def run_module(module: str, *options) -> dict | None:
    """Run ``python -m module options`` and return the JSON that it prints last.

    If it fails, print the last lines of its standard error and return None. It sees one GPU, so that all
    contestants use the same number.
    """
    environment = {
        **os.environ,
        "BEGAN": str(time.time()),
        "TOKENIZERS_PARALLELISM": "false",
        "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0],
    }
    command = [sys.executable, "-m", module, *map(str, options)]
    process = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, cwd=runtime.ROOT
    )
    if process.returncode:
        last_lines = "\n".join(process.stderr.strip().splitlines()[-4:])
        print(f"{' '.join(command[2:])} ended with {process.returncode}: {last_lines}", flush=True)
        return None
    return json.loads(process.stdout.splitlines()[-1])


def write_result(name: str, result: dict) -> None:
    """Write benchmarks/NAME-cpu.json or -cuda.json, with the command, machine, date and versions."""
    path = FOLDER / f"{name}-{runtime.device().type}.json"
    content = metadata(name.split("-")[0]) | result
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def metadata(module: str) -> dict:
    """The command that ran this benchmark, the machine, the date and versions."""
    versions = runtime.versions()
    try:
        versions["lightning"] = importlib.metadata.version("lightning")
    except importlib.metadata.PackageNotFoundError:
        versions["lightning"] = "absent"
    options = [Path(word).name if os.sep in word else word for word in sys.argv[1:]]
    return {
        "command": f"python -m benchmarks.{module} {' '.join(options)}".strip(),
        "machine": machine_name(),
        "date": time.strftime("%Y-%m-%d"),
        "versions": versions,
    }


def machine_name() -> str:
    """The GPU's name, or the processor's with its number of cores and of torch's threads."""
    if runtime.device().type != "cpu":
        return runtime.device_name()
    path = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", path.read_text()) if path.exists() else []
    name = names[0] if names else platform.machine()
    return f"{name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
