"""Work in a separate process: Apex patches torch for good, and only an exit surely frees GPU memory."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def run_in_process(
    function: Callable[Arguments, Result], *arguments: Arguments.args, **named: Arguments.kwargs
) -> Result:
    """What ``function`` returns in a fresh process that shares nothing with this one.

    Its exceptions are raised here. The function and everything that goes in or out must be picklable. Raises
    BrokenProcessPool if the process dies, such as for want of memory.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments, **named).result()
