"""Where the code runs, on what device, with which versions; seeds; whether anybody is watching."""

import contextlib
import ctypes
import importlib.metadata
import os
import platform
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import torch
import transformers
from transformers import set_seed

# Loading and saving a model is quick and reported by us; downloads from the hub keep their own progress bars.
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

# Asking whether there is a GPU must not open it: a process that has opened one cannot share it with forked ones, and
# notebook_launcher forks.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "transformers", "accelerate", "madgrad", "numpy", "pandas", "scikit-learn", "papermill")


def platform_name() -> str:
    """``"kaggle"``, ``"colab"`` or ``"machine"``."""
    if "KAGGLE_KERNEL_RUN_TYPE" in os.environ:
        return "kaggle"
    # A Kaggle kernel's image is Colab's, so this must be asked second.
    return "colab" if "COLAB_RELEASE_TAG" in os.environ else "machine"


def workspace() -> Path:
    """The folder under which data/ and output/ are written: the project's, or the current one where that is read-only.

    On Kaggle the code may be a read-only dataset, while the current directory is /kaggle/working.
    """
    return ROOT if os.access(ROOT, os.W_OK) else Path.cwd()


def shown(path: Path) -> str:
    """``path`` as messages show it: relative to the workspace where it lies inside."""
    path = Path(path).resolve()
    return str(path.relative_to(workspace())) if path.is_relative_to(workspace()) else str(path)


def device() -> torch.device:
    """The accelerator that torch sees (CUDA, or Apple's MPS), or the CPU."""
    return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")


def device_name(processes: int = 1) -> str:
    """What the device is called: the GPU's name, or the number of CPU threads torch uses; as many as processes."""
    name = gpu()[0] if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    return name if processes == 1 else f"{processes} x {name}"


def gpu() -> tuple[str, bool]:
    """The first GPU's name, and whether it computes in bfloat16; asked of nvidia-smi, which does not open it here."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    command = ["nvidia-smi", "-i", first, "--query-gpu=name,compute_cap", "--format=csv,noheader"]
    try:
        about = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        name, capability = about.rsplit(", ", 1)
        return name, float(capability) >= 8  # Ampere
    except (OSError, ValueError, subprocess.CalledProcessError):  # AMD's, or a container without the tool
        return torch.cuda.get_device_name(0), torch.cuda.is_bf16_supported(including_emulation=False)


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch once: same seed, same machine, same weights.

    CUDA is kept to repeatable kernels where there are such; torch warns of the others, whose last digits may differ.
    """
    set_seed(seed)
    if torch.cuda.is_available():
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS repeats itself only with this set
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # a debugging aid that costs time


def keep_freed_memory() -> None:
    """Have glibc keep freed memory instead of giving it back: each large tensor would be mapped and zeroed anew."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        library = ctypes.CDLL("libc.so.6")
        for option, value in ((-3, 2**30), (-1, 2**31 - 1)):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
            library.mallopt(option, value)


def random_states(device: torch.device) -> dict:
    """The states of every generator that training draws from."""
    kind, keys, *place = np.random.get_state()
    states = {"torch": torch.get_rng_state(), "python": random.getstate(), "numpy": [kind, keys.tolist(), *place]}
    return states if device.type == "cpu" else states | {"device": torch.get_device_module(device).get_rng_state()}


def restore_random_states(states: dict, device: torch.device) -> None:
    torch.set_rng_state(states["torch"])
    random.setstate(states["python"])
    np.random.set_state(tuple(states["numpy"]))
    if "device" in states:
        torch.get_device_module(device).set_rng_state(states["device"])


def progress_wanted() -> bool:
    """Whether a progress bar has somebody to watch it: a terminal or a live notebook, not papermill or nbconvert.

    Their logs and outputs keep each update of a bar, so their kernels are recognised, by the parents' command lines.
    """
    words = [word for parent in psutil.Process().parents() for word in _command_line(parent)]
    if any(headless in word for word in words for headless in ("papermill", "nbconvert")):
        return False
    return sys.stderr.isatty() or _in_a_kernel()


def _in_a_kernel() -> bool:
    # A kernel has loaded IPython before any cell runs. That ipykernel is imported says nothing: papermill's own process
    # and tests that execute notebooks import it too.
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return hasattr(shell, "kernel")


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()[:4]
    except psutil.Error:
        return []


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on; "absent" where one is not installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "absent"
    return found
