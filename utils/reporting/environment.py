"""What works on this machine, and the remedy for what does not: ``python -m utils environment``."""

import importlib
import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from typing import NamedTuple

from utils.config import InputError

# Everything else is imported where it is needed: this module must be able to say that it is missing.


class Check(NamedTuple):
    """One row of the report. ``status`` is "works", "absent" (which the suite can do without) or "broken"."""

    name: str
    finding: str
    status: str
    remedy: str = ""  # shown unless it works


def checks() -> list[Check]:
    """All checks. They try things out: packages are imported, the GPU multiplies a matrix."""
    supported = (3, 11) <= sys.version_info[:2] <= (3, 13)
    status = "works" if supported else "broken"
    python = Check("Python", platform.python_version(), status, "use Python 3.11, 3.12 or 3.13")
    core = [_package(name) for name in ("torch", "transformers", "accelerate", "psutil")]
    others = [_package(name) for name in ("madgrad", "pandas", "scikit-learn", "matplotlib", "papermill")]
    packages = [python, *core, *others, _package("lit-nlp", needed=False)]
    if any(check.status == "broken" for check in core):
        return packages  # the remaining checks need these
    return [*packages, *_machine(), *_gpus(), _minilm(), _apex()]


def _machine() -> Iterator[Check]:
    import psutil
    import torch

    from utils.machine import precision, runtime

    memory, disk = psutil.virtual_memory(), shutil.disk_usage(runtime.workspace())
    bf16 = "has bfloat16" if precision.cpu_has_bf16() else "no native bfloat16"
    gib = 2**30
    yield Check("runs on", runtime.platform_name(), "works")
    yield Check(
        "CPU", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads for torch, {bf16}", "works"
    )
    yield Check("memory", f"{memory.total / gib:.0f} GiB, {memory.available / gib:.0f} GiB free", "works")
    status = "works" if disk.free > 2 * gib else "broken"
    remedy = f"free 2 GiB or more on the disk of {runtime.display_path(runtime.workspace())}"
    yield Check("disk", f"{disk.free / gib:.0f} GiB free", status, remedy)


_MODULES = {"scikit-learn": "sklearn", "lit-nlp": "lit_nlp.dev_server"}


def _package(name: str, needed: bool = True) -> Check:
    problem, remedy = "broken" if needed else "absent", "run: bash setup.sh"
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Check(name, "not installed", problem, remedy)
    try:
        importlib.import_module(_MODULES.get(name, name))
    except Exception as error:  # incompatible versions may fail in any way
        return Check(name, f"{version}, cannot be imported ({_first_line(error)})", problem, remedy)
    return Check(name, version, "works")


def _gpus() -> Iterator[Check]:
    """A row per GPU, or one that says why there is none."""
    import torch

    from utils.machine import runtime

    device = runtime.device().type
    if device == "mps":
        yield Check("GPU", "Apple's, through MPS", *_try_device("mps"))
    elif device == "cuda":
        for i in range(torch.cuda.device_count()):
            gpu = torch.cuda.get_device_properties(i)
            size = f"{gpu.total_memory / 2**30:.0f} GiB"
            versions = f"compute capability {gpu.major}.{gpu.minor}, CUDA {torch.version.cuda}"
            yield Check("GPU", f"{gpu.name}, {size}, {versions}", *_try_device(f"cuda:{i}"))
    elif not shutil.which("nvidia-smi"):
        yield Check(
            "GPU", "none", "absent", "in Colab and Kaggle, choose a GPU (T4) in the notebook's settings"
        )
    elif torch.version.cuda is None:
        remedy = "to use it, remove .venv and run bash setup.sh without TORCH_INDEX_URL"
        yield Check("GPU", "one by NVIDIA, but this torch was built without CUDA", "absent", remedy)
    else:
        remedy = f"see what nvidia-smi prints: the driver may be older than CUDA {torch.version.cuda}"
        yield Check("GPU", "nvidia-smi is installed, but torch sees no GPU", "absent", remedy)


def _try_device(device: str) -> tuple[str, str]:
    """Status and remedy of a device. One for which torch has no kernels (the P100) fails only when used."""
    import torch

    try:
        matrix = torch.ones(8, 8, device=device)
        (matrix @ matrix).sum().item()
    except RuntimeError as error:
        return (
            "broken",
            f"torch cannot compute on it ({_first_line(error)}); choose another GPU, such as a T4",
        )
    return "works", ""


def _minilm() -> Check:
    from utils.machine.encoders import encoder_source

    try:
        encoder_source("minilm")
    except InputError as error:
        return Check("MiniLM", "cannot be used", "broken", str(error))
    return Check("MiniLM", "the demo's encoder, with the official weights", "works")


def _apex() -> Check:
    from utils.machine import apex_amp, runtime

    problem = apex_amp.apex_problem()
    if problem is None:
        return Check("Apex", apex_amp.apex_build(), "works")
    cuda = runtime.device().type == "cuda"
    remedy = problem.remedy or ("run: bash setup.sh --apex" if cuda else "none needed: Apex is for CUDA")
    return Check("Apex", problem.finding, "absent", remedy)


def _first_line(error: Exception) -> str:
    return (str(error).strip().split("\n")[0] or type(error).__name__)[:120]


def main() -> int:
    """Print the report. Returns the exit status: 1 if anything that the notebooks need is broken."""
    report = checks()
    for check in report:
        remedy = f" -> {check.remedy}" if check.remedy and check.status != "works" else ""
        print(f"  {check.name:13} {check.status:7} {check.finding}{remedy}")
    if any(check.status == "broken" for check in report):
        return 1
    from utils.machine.precision import choose

    choice = choose("auto")
    print(f"  precision     {choice.name}: {choice.reason}")
    return 0
