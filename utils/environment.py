"""What this machine has, what of it works, and the remedy for what does not: ``python -m utils.environment``."""

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
    """One row of the report. ``state`` is "works", "absent" (and can be done without) or "broken"."""

    name: str
    found: str
    state: str
    remedy: str = ""


def checks() -> list[Check]:
    """Every check, tried out and not merely looked up: packages are imported, the GPU multiplies a matrix."""
    known = (3, 11) <= sys.version_info[:2] <= (3, 13)
    python = Check("Python", platform.python_version(), "works" if known else "broken", "use Python 3.11, 3.12 or 3.13")
    core = [_package(name) for name in ("torch", "transformers", "accelerate", "psutil")]
    others = [_package(name) for name in ("madgrad", "pandas", "scikit-learn", "matplotlib", "papermill")]
    found = [python, *core, *others, _package("lit-nlp", needed=False)]
    if any(check.state == "broken" for check in core):
        return found  # without these the rest cannot even be looked at
    return [*found, *_machine(), *_gpus(), _minilm(), _apex()]


def _machine() -> list[Check]:
    import psutil
    import torch

    from utils import precision, runtime

    memory, disk = psutil.virtual_memory(), shutil.disk_usage(runtime.workspace())
    half = "has bfloat16" if precision.cpu_has_bf16() else "no native bfloat16"
    gib = 2**30
    return [
        Check("runs on", runtime.platform_name(), "works"),
        Check("CPU", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads for torch, {half}", "works"),
        Check("memory", f"{memory.total / gib:.0f} GiB, {memory.available / gib:.0f} GiB free", "works"),
        Check("disk", f"{disk.free / gib:.0f} GiB free", "works" if disk.free > 2 * gib else "broken",
              f"free 2 GiB or more where {runtime.shown(runtime.workspace())} lies"),
    ]  # fmt: skip


_MODULES = {"scikit-learn": "sklearn", "lit-nlp": "lit_nlp.dev_server"}


def _package(name: str, needed: bool = True) -> Check:
    version = "not installed"
    try:
        version = importlib.metadata.version(name)
        importlib.import_module(_MODULES.get(name, name))
    except importlib.metadata.PackageNotFoundError:
        return Check(name, version, "broken" if needed else "absent", "run: bash setup.sh")
    except Exception as error:  # a package at odds with another may fail in any way
        found = f"{version}, cannot be imported ({_first_line(error)})"
        return Check(name, found, "broken" if needed else "absent", "run: bash setup.sh")
    return Check(name, version, "works")


def _gpus() -> Iterator[Check]:
    """A row for each GPU, or one that says why there is none."""
    import torch

    from utils import runtime

    kind = runtime.device().type
    if kind == "mps":
        yield Check("GPU", "Apple's, through MPS", *_tried("mps"))
    elif kind == "cuda":
        for i in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(i)
            found = (
                f"{about.name}, {about.total_memory / 2**30:.0f} GiB, compute capability {about.major}.{about.minor}"
            )
            yield Check("GPU", f"{found}, CUDA {torch.version.cuda}", *_tried(f"cuda:{i}"))
    elif not shutil.which("nvidia-smi"):
        yield Check("GPU", "none", "absent", "in Colab and Kaggle, choose a GPU (T4) in the notebook's settings")
    elif torch.version.cuda is None:
        remedy = "to use it, remove .venv and run bash setup.sh without TORCH_INDEX_URL"
        yield Check("GPU", "one by NVIDIA, but this torch was built without CUDA", "absent", remedy)
    else:
        remedy = f"see what nvidia-smi prints: the driver may be older than CUDA {torch.version.cuda}"
        yield Check("GPU", "nvidia-smi is here, but torch sees no GPU", "absent", remedy)


def _tried(device: str) -> tuple[str, str]:
    """State and remedy of a device. One that torch no longer has kernels for (the P100) fails only when used."""
    import torch

    try:
        matrix = torch.ones(8, 8, device=device)
        (matrix @ matrix).sum().item()
    except RuntimeError as error:
        return "broken", f"torch cannot compute on it ({_first_line(error)}); choose another GPU, such as a T4"
    return "works", ""


def _minilm() -> Check:
    from utils.model import encoder_source

    try:
        encoder_source("minilm")
    except InputError as error:
        return Check("MiniLM", "cannot be used", "broken", str(error))
    return Check("MiniLM", "the demo's encoder, its weights the official ones", "works")


def _apex() -> Check:
    from utils import apex_amp, runtime

    problem = apex_amp.apex_problem()
    if problem is None:
        return Check("Apex", apex_amp.apex_build(), "works")
    problem, _, remedy = problem.partition("; ")
    cuda = runtime.device().type == "cuda"
    remedy = remedy or ("run: bash setup.sh --apex" if cuda else "none needed: Apex is for CUDA")
    return Check("Apex", problem, "absent", remedy)


def _first_line(error: Exception) -> str:
    return (str(error).strip().split("\n")[0] or type(error).__name__)[:120]


def main() -> int:
    """Print the report; the exit status is 1 if anything that the notebooks need is broken."""
    found = checks()
    for check in found:
        remedy = f" -> {check.remedy}" if check.remedy and check.state != "works" else ""
        print(f"  {check.name:13} {check.state:7} {check.found}{remedy}")
    broken = any(check.state == "broken" for check in found)
    if not broken:
        from utils.precision import choose

        choice = choose("auto")
        print(f"  precision     {choice.name}: {choice.reason}")
    return int(broken)


if __name__ == "__main__":
    sys.exit(main())
