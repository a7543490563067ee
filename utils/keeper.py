"""Run a command, such as papermill's, so that nothing of it outlives whoever asked for it.

``python -m utils.keeper COMMAND ...`` holds its standard input open: when that ends, because it was closed or because
whoever held it died, the notebook's kernel is interrupted as a user would do it, so that a training saves its state.
What has not ended after a while is killed, and so is what a killed papermill leaves behind.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import psutil

GRACE = 60.0  # seconds between the interrupt and the end: a step and a saved state should fit in


def main() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, [])  # Ray's workers block SIGINT, and children inherit it
    process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    asked = threading.Event()
    # Not sys.stdin.read, whose lock a thread that waits in it would hold at the end.
    threading.Thread(target=lambda: (os.read(0, 1), asked.set()), daemon=True).start()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: asked.set())
    below: dict[int, psutil.Process] = {}
    told = None  # when
    while process.poll() is None:
        with contextlib.suppress(psutil.Error):
            below |= {child.pid: child for child in psutil.Process(process.pid).children(recursive=True)}
        if asked.is_set() and told is None:
            told = time.monotonic()
            interrupt(process, below)
        if told is not None:
            waited = time.monotonic() - told
            if waited > GRACE:
                process.kill()
            elif waited > 5 and not kernels_of(below):  # interrupted while it started, and papermill waits for it
                process.terminate()
        time.sleep(0.1)
    for child in below.values():
        with contextlib.suppress(psutil.Error):
            child.kill()  # psutil knows a process from another that has got its number since
    sys.exit(process.returncode if process.returncode >= 0 else 128 - process.returncode)


def interrupt(process: subprocess.Popen, below: dict[int, psutil.Process]) -> None:
    """What the stop button does; before there is a kernel, the end of it all."""
    kernels = kernels_of(below)
    if not kernels:
        process.terminate()
    for kernel in kernels[:1]:  # processes that it has forked look like it
        with contextlib.suppress(psutil.Error):
            kernel.send_signal(signal.SIGINT)


def kernels_of(below: dict[int, psutil.Process]) -> list[psutil.Process]:
    """The notebook's kernel, and what it has forked, as far as they live."""
    found = []
    for child in below.values():
        with contextlib.suppress(psutil.Error):
            if any("ipykernel" in word for word in child.cmdline()):
                found.append(child)
    return found


if __name__ == "__main__":
    main()
