"""Makes torch and psutil describe another machine: STAND_IN_CUDA, STAND_IN_CAPABILITY, STAND_IN_FREE_GIB.

STAND_IN_TORCH=broken: torch cannot be imported. STAND_IN_READ_ONLY: a folder that is read-only and full.
"""

import importlib.util
import os
import shutil
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path


def _change_torch(torch):
    if os.environ.get("STAND_IN_TORCH") == "broken":
        raise ImportError("libcudart.so is not there")
    cuda, capability = os.environ["STAND_IN_CUDA"], os.environ["STAND_IN_CAPABILITY"]
    torch.version.cuda = None if cuda == "none" else cuda
    torch.cuda.is_available = lambda: capability != "none"
    torch.cuda.device_count = lambda: int(capability != "none")
    torch.cuda.get_device_capability = lambda device=None: tuple(map(int, capability.split(".")))


def _change_psutil(psutil):
    memory, available = psutil.virtual_memory, int(os.environ["STAND_IN_FREE_GIB"]) * 2**30
    psutil.virtual_memory = lambda: memory()._replace(available=available)
    is_file = Path.is_file  # the real machine may be a container with a memory limit
    Path.is_file = lambda path: path.name != "memory.max" and is_file(path)


class _ModuleChanger(MetaPathFinder):
    """Changes modules that the other finders find, as soon as they are loaded."""

    changes = {"torch": _change_torch, "psutil": _change_psutil}  # noqa: RUF012

    def find_spec(self, name, path=None, target=None):
        change = self.changes.pop(name, None)
        if change is None:
            return None
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def load_and_change(module):
            load(module)
            change(module)

        spec.loader.exec_module = load_and_change
        return spec


if "STAND_IN_CUDA" in os.environ:
    sys.meta_path.insert(0, _ModuleChanger())
if "STAND_IN_READ_ONLY" in os.environ:
    access, disk_usage, folder = os.access, shutil.disk_usage, os.environ["STAND_IN_READ_ONLY"]
    os.access = lambda path, mode: access(path, mode) and not str(path).startswith(folder)
    shutil.disk_usage = lambda path: disk_usage(path)._replace(
        free=2**40 * (not str(path).startswith(folder))
    )
