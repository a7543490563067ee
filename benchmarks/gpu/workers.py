"""Processes that call functions on request: started once, since importing everything takes seconds."""

import importlib
import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

CPU = {"CUDA_VISIBLE_DEVICES": ""}  # a worker with this environment sees no GPU


class WorkerError(RuntimeError):
    """A worker's function failed, took too long, or its process died."""


class Worker:
    """A process of its own, which calls one function after the other and sends back what they return.

    Args:
        module: imported at once, so that the first call need not wait for it.
        environment: variables to start it with.
    """

    def __init__(self, module: str, **environment: str):
        from accelerate.utils import patch_environment  # here: the worker itself starts faster without it

        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other, module), daemon=True)
        # Before the process starts: what it imports may look for GPUs, and that is remembered.
        with patch_environment(**environment):
            self.process.start()
        other.close()

    def submit(self, function: Callable, *arguments, **named) -> None:
        """Have ``function`` called after those submitted before; all must be picklable."""
        self._connection.send((function, arguments, named))

    def result(self, seconds: float) -> Any:
        """What the first submitted function whose result was not taken yet returns, within ``seconds``.

        Raises WorkerError if it raised, took longer (the process is killed), or the process died.
        """
        if not self._connection.poll(max(seconds, 0)):
            self.kill()
            raise WorkerError(f"no result after {seconds:.0f} s")
        try:
            value, error = self._connection.recv()
        except EOFError:
            self.process.join(5)
            raise WorkerError(f"the process ended with status {self.process.exitcode}") from None
        if error:
            raise WorkerError(error)
        return value

    def call(self, function: Callable, *arguments, seconds: float = 120, **named) -> Any:
        """``submit`` and ``result``."""
        self.submit(function, *arguments, **named)
        return self.result(seconds)

    def kill(self) -> None:
        """End the process with SIGKILL."""
        self.process.kill()
        self.process.join()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()


def _serve(connection: Connection, module: str) -> None:
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # standard output is for the part's own lines
    importlib.import_module(module)
    while True:
        try:
            function, arguments, named = connection.recv()
        except EOFError:  # the parent is gone
            return
        try:
            reply = function(*arguments, **named), ""
        except Exception as error:
            traceback.print_exc()
            text = str(error).strip().split("\n")[0]
            reply = None, f"{type(error).__name__}: {text}"
        connection.send(reply)
