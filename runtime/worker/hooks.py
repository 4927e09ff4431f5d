"""Calling a function's hooks, `startup` and `before_unload`."""

from __future__ import annotations

import inspect
from typing import Any

from runtime.worker import threads
from runtime.worker.exports import Hook, is_async


async def run(hook: Hook, *arguments: Any) -> None:
    """Call a hook and wait for its end; a plain `def` runs on a thread.

    Raises:
        TypeError: it is a generator, whose code nobody would run.
        BaseException: whatever it raises.
    """
    value = hook(*arguments) if is_async(hook) else await threads.result(threads.begin(hook, *arguments))
    if inspect.isgenerator(value) or inspect.isasyncgen(value):
        raise TypeError(f"`{getattr(hook, '__name__', hook)}` is a generator: it must not `yield`")
    if inspect.isawaitable(value):
        await value
