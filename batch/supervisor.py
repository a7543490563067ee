"""Run a command so that nothing of it outlives the process that asked for it.

    python -m batch.supervisor COMMAND ...

runs papermill, say, and watches its own standard input. When that ends, because it was closed or because the
process that held it open died, the notebook's kernel is interrupted as a user would do it, so that a training
saves its state. What has not ended after a minute is killed, and so is what a killed papermill leaves behind.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import psutil

GRACE = 60.0  # seconds between the interrupt and the kill; a training step and a saved state should fit


def main() -> None:
    command = sys.argv[1:]
    if not command or command[0] in ("-h", "--help"):
        print(__doc__)
        sys.exit(0 if command else 2)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])  # Ray's workers block SIGINT, and children inherit it
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    stop = threading.Event()

    def wait_for_end_of_input() -> None:
        os.read(0, 1)  # not sys.stdin.read, whose lock this thread would hold when the interpreter shuts down
        stop.set()

    threading.Thread(target=wait_for_end_of_input, daemon=True).start()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    returncode = supervise(process, stop)
    sys.exit(returncode if returncode >= 0 else 128 - returncode)


def supervise(process: subprocess.Popen, stop: threading.Event) -> int:
    """Wait for ``process``, ending it once ``stop`` is set; kill what it leaves behind; its return code."""
    descendants: dict[int, psutil.Process] = {}
    interrupted_at = None
    while process.poll() is None:
        with contextlib.suppress(psutil.Error):
            children = psutil.Process(process.pid).children(recursive=True)
            descendants |= {child.pid: child for child in children}
        if stop.is_set() and interrupted_at is None:
            interrupted_at = time.monotonic()
            interrupt(process, descendants)
        if interrupted_at is not None:
            waited = time.monotonic() - interrupted_at
            if waited > GRACE:
                process.kill()
            elif waited > 5 and not kernels(
                descendants
            ):  # interrupted at its start, and papermill waits for it
                process.terminate()
        time.sleep(0.1)
    for child in descendants.values():
        with contextlib.suppress(psutil.Error):
            child.kill()  # psutil recognizes a reused process id
    return process.returncode


def interrupt(process: subprocess.Popen, descendants: dict[int, psutil.Process]) -> None:
    """Do what a notebook's stop button does; before there is a kernel, end the command."""
    running = kernels(descendants)
    if not running:
        process.terminate()
    for kernel in running[:1]:  # the others are its forks, which have the same command line
        with contextlib.suppress(psutil.Error):
            kernel.send_signal(signal.SIGINT)


def kernels(descendants: dict[int, psutil.Process]) -> list[psutil.Process]:
    """The notebook's kernel and its forks, those that are alive."""
    running = []
    for child in descendants.values():
        with contextlib.suppress(psutil.Error):
            if any("ipykernel" in word for word in child.cmdline()):
                running.append(child)
    return running


if __name__ == "__main__":
    main()
