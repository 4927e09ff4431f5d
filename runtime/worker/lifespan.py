"""The lifespan of an exported ASGI application: startup before ready, shutdown after drain."""

from __future__ import annotations

import asyncio
import traceback
from typing import Any

from starlette.types import ASGIApp, Message

from runtime.worker import logs


class Lifespan:
    """Runs an application's lifespan, as the ASGI specification has it.

    An application that does not support it (it raises before `startup.complete`) is run
    without. What fails after that is logged.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._events: asyncio.Queue[Message] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        self._started = asyncio.Event()
        self._stopped = asyncio.Event()
        self._failure: str | None = None
        self._serves = self._leaves = self._told = False
        self.state: dict[str, Any] = {}

    async def startup(self) -> None:
        """Run the application's startup.

        Raises:
            RuntimeError: the application says that its startup failed.
        """
        self._events.put_nowait({"type": "lifespan.startup"})
        self._task = asyncio.get_running_loop().create_task(self._run())
        await self._started.wait()
        if self._failure is not None:
            raise self._failed(self._failure.strip())

    async def shutdown(self) -> None:
        """Run the application's shutdown, if its startup was run."""
        if self._task is not None and not self._task.done():
            self._leaves = True
            self._events.put_nowait({"type": "lifespan.shutdown"})
            try:
                await self._stopped.wait()
            except asyncio.CancelledError:
                self._told = True  # who waited has given up, and says so
                raise

    @staticmethod
    def _failed(message: str) -> RuntimeError:
        """Frameworks send a traceback as the message: its last line says it, the rest explains."""
        *explanation, said = message.splitlines() or ["no reason given"]
        error = RuntimeError(f"the application's startup failed: {said}")
        if explanation:
            error.add_note(message)
        return error

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self.state}
        try:
            await self._app(scope, self._events.get, self._send)
        except (SystemExit, KeyboardInterrupt) as error:  # would end the event loop, and all requests
            if self._failure is None and not self._serves:
                self._failure = f"{type(error).__name__}: {error}"
            self._failed_late("".join(traceback.format_exception(error)))
        except Exception as error:
            # Before it serves: unsupported, or a failure that it has told through an event.
            self._failed_late("".join(traceback.format_exception(error)))
        finally:
            self._started.set()
            self._stopped.set()

    def _failed_late(self, reason: str) -> None:
        """Log what fails once the function serves; frameworks tell it by an event, then raise it."""
        if self._serves and not self._told:
            self._told = True
            what = "shutdown failed" if self._leaves else "lifespan failed while it served"
            logs.emit("error", f"the application's {what}\n{reason or 'no reason given'}".rstrip())

    async def _send(self, message: Message) -> None:
        match message["type"]:
            case "lifespan.startup.complete":
                self._serves = True
                self._started.set()
            case "lifespan.startup.failed":
                self._failure = message.get("message", "")
                self._started.set()
            case "lifespan.shutdown.complete":
                self._stopped.set()
            case "lifespan.shutdown.failed":
                self._failed_late(message.get("message", ""))
                self._stopped.set()
