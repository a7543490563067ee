"""The platform and its folders, the device, package versions, random seeds, and whether to show progress."""

import contextlib
import ctypes
import importlib.metadata
import os
import platform
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import transformers
from transformers import set_seed

# Loading and saving a model is quick, and we report it ourselves; downloads keep their progress bars.
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

# Checking for a GPU must not initialize CUDA: notebook_launcher forks, and a forked process cannot use a GPU
# that its parent has initialized.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("torch", "transformers", "accelerate", "madgrad", "numpy", "pandas", "scikit-learn", "papermill")


def platform_name() -> str:
    """``"kaggle"``, ``"colab"`` or ``"machine"``."""
    if "KAGGLE_KERNEL_RUN_TYPE" in os.environ:
        return "kaggle"
    # Kaggle's image is built on Colab's, so Colab must be checked second.
    return "colab" if "COLAB_RELEASE_TAG" in os.environ else "machine"


def workspace() -> Path:
    """The folder that contains data/ and output/: the project's, or the current one if that is read-only.

    On Kaggle the code may be a read-only dataset, while the current directory is /kaggle/working.
    """
    return ROOT if os.access(ROOT, os.W_OK) else Path.cwd()


def display_path(path: Path) -> str:
    """``path`` as messages show it: relative to the workspace if it is inside."""
    path = Path(path).resolve()
    return str(path.relative_to(workspace())) if path.is_relative_to(workspace()) else str(path)


def device() -> torch.device:
    """The accelerator that torch sees (CUDA, or Apple's MPS), or the CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def device_name(processes: int = 1) -> str:
    """The GPU's name, or the CPU with its number of torch threads; "2 x ..." for two processes."""
    name = gpu()[0] if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    return name if processes == 1 else f"{processes} x {name}"


def gpu() -> tuple[str, bool]:
    """The first GPU's name, and whether it has native bfloat16.

    nvidia-smi is asked first, since torch would initialize CUDA in this process.
    """
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    command = ["nvidia-smi", "-i", first, "--query-gpu=name,compute_cap", "--format=csv,noheader"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        name, capability = output.rsplit(", ", 1)
        return name, float(capability) >= 8  # Ampere
    except (
        OSError,
        ValueError,
        subprocess.CalledProcessError,
    ):  # an AMD GPU, or a container without nvidia-smi
        return torch.cuda.get_device_name(0), torch.cuda.is_bf16_supported(including_emulation=False)


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch: the same seed on the same machine gives the same weights.

    CUDA uses deterministic kernels where they exist. torch warns about others, whose last digits may vary.
    """
    set_seed(seed)
    if torch.cuda.is_available():
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with this
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined] # slow


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """``tensor`` on ``device``, without waiting for what is queued there: only pinned memory is copied so."""
    pinned = tensor.pin_memory() if device.type == "cuda" else tensor
    return pinned.to(device, non_blocking=True)


def keep_freed_memory() -> None:
    """Make glibc keep freed memory, so that large tensors need not be mapped and zeroed again each time."""
    with contextlib.suppress(OSError, AttributeError):  # the C library is not glibc
        library = ctypes.CDLL("libc.so.6")
        for option, value in ((-3, 2**30), (-1, 2**31 - 1)):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
            library.mallopt(option, value)


def random_states(device: torch.device) -> dict:
    """The states of all random generators that training uses."""
    state: Any = np.random.get_state()
    algorithm, keys, *position = state
    states = {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": [algorithm, keys.tolist(), *position],
    }
    if device.type != "cpu":
        states["device"] = torch.get_device_module(device).get_rng_state()
    return states


def restore_random_states(states: dict, device: torch.device) -> None:
    """Put every generator back into the state that ``random_states`` returned."""
    torch.set_rng_state(states["torch"])
    random.setstate(states["python"])
    np.random.set_state(tuple(states["numpy"]))
    if "device" in states:
        torch.get_device_module(device).set_rng_state(states["device"])


def say(text: str) -> None:
    """Print a line, if it can be printed: a reader that went away or a full disk must not end a training."""
    with contextlib.suppress(OSError, ValueError):
        try:
            print(text, flush=True)
        except UnicodeEncodeError:
            print(text.encode("ascii", "backslashreplace").decode(), flush=True)
        except OSError:  # what is left to print goes nowhere, or Python would try once more when it ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def progress_wanted() -> bool:
    """Whether someone may be watching: in a terminal or a live notebook, not under papermill or nbconvert.

    Those two record every update of a progress bar. The parents' command lines tell whether they are running.
    """
    arguments = [argument for parent in psutil.Process().parents() for argument in _command_line(parent)]
    if any(runner in argument for argument in arguments for runner in ("papermill", "nbconvert")):
        return False
    return sys.stderr.isatty() or _in_kernel()


def _in_kernel() -> bool:
    # A kernel loads IPython before any cell runs. An imported ipykernel proves nothing: papermill's own
    # process and tests that execute notebooks import it too.
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return hasattr(shell, "kernel")


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()[:4]
    except psutil.Error:
        return []


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on; "absent" for a package not installed."""
    installed = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            installed[package] = "absent"
    return installed
