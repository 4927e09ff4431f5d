"""The server's gateway with one function, on a thread of the test's process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
import threading
from collections.abc import Mapping
from concurrent.futures import Future

import msgspec
import uvloop
from starlette.types import Receive, Scope, Send

from runtime.context import current
from runtime.gateway import server
from runtime.gateway.app import Gateway
from runtime.gateway.auth import Authenticator
from runtime.gateway.cors import CorsMiddleware
from runtime.gateway.guard import guarded
from runtime.gateway.internal import Internal
from runtime.gateway.registry import Registry
from runtime.gateway.services import Services
from runtime.project.settings import Function, Project
from runtime.testing import borrowed
from runtime.testing.front import Front
from runtime.testing.inside import Inside, NoEngine
from runtime.testing.log import KeptLog
from runtime.testing.session import FakeHost
from runtime.worker.loader import ROOT

_turn = threading.Lock()
_CLIENT = ("127.0.0.1", 49152)
_LAST_BREATH_S = 1.0
_MARGIN_S = 5.0  # beyond `boot_s`, after which a function that lets go of the event loop has failed


class House:
    """Runs the function from `start` to `stop`.

    Args:
        function: which one of the project.
        environ: variables that win over the project's.

    Attributes:
        errors: what handlers raised, with the requests' ids.
    """

    def __init__(
        self, project: Project, function: Function, environ: Mapping[str, str], models: FakeHost
    ) -> None:
        limits = msgspec.structs.replace(function.limits, min_workers=1, max_workers=1, max_requests=0)
        self.function = msgspec.structs.replace(function, limits=limits)
        settings = msgspec.structs.replace(project.settings, policy="per_worker")
        functions = {function.name: self.function}
        self._project = msgspec.structs.replace(project, functions=functions, settings=settings)
        self._environ, self._models = environ, models
        self.log = KeptLog()
        self.errors: list[tuple[str, BaseException]] = []
        self.socket = ""
        self._loop: asyncio.AbstractEventLoop
        self._leave = asyncio.Event()
        self._stack = contextlib.ExitStack()
        self._done: Future[None] | None = None

    def start(self) -> None:
        """Serve; returns when the function has booted, or failed to.

        Raises:
            RuntimeError: another function is being tested.
        """
        if not _turn.acquire(blocking=False):
            raise RuntimeError(
                "another FunctionClient is open: a process can be lent to one function at a time. "
                "Leave its `with` block first"
            )
        self._stack.callback(_turn.release)
        try:
            temp = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="fn-", dir=_short()))
            self.socket = os.path.join(temp, "s")
            parent = os.path.dirname(self.function.directory)
            self._stack.enter_context(borrowed.process(parent, self._emit))
            self._begin(temp)
        except BaseException:
            self._stack.close()
            raise

    def _begin(self, temp: str) -> None:
        ready: Future[None] = Future()
        self._done = Future()
        self._loop = uvloop.new_event_loop()
        arguments = (temp, ready, self._done)
        thread = threading.Thread(target=self._run, args=arguments, name="function", daemon=True)
        thread.start()
        self._stack.callback(thread.join, _LAST_BREATH_S)
        try:
            self._wait_ready(ready)
        except BaseException:  # also the person's, who has waited long enough
            self._ask_to_leave()
            raise

    def _wait_ready(self, ready: Future[None]) -> None:
        boot_s = self.function.limits.boot_s
        seconds = boot_s + _MARGIN_S if boot_s else None
        try:
            ready.result(seconds)
        except TimeoutError:
            if ready.done():
                raise  # its own
            raise RuntimeError(
                f"{self.function.name} was not ready within {seconds:g} s: something in its import or its "
                "startup blocks the event loop (a plain `def startup` may block, an `async def` must await)"
            ) from None

    def stop(self) -> None:
        """Drain as the server does at its end: what `wait_until` was given is finished first.

        Raises:
            RuntimeError: the function does not let go of the event loop.
        """
        done, self._done = self._done, None
        if done is None:
            return
        seconds = 2 * self._project.settings.shutdown_s + _LAST_BREATH_S
        with self._stack:
            self._ask_to_leave()
            try:
                done.result(seconds)
            except TimeoutError:
                raise RuntimeError(
                    f"{self.function.name} did not end within {seconds:g} s: something in it blocks the "
                    "event loop (a plain `def` handler may block, an `async def` must await)"
                ) from None

    def _ask_to_leave(self) -> None:
        with contextlib.suppress(RuntimeError):  # it has left already
            self._loop.call_soon_threadsafe(self._leave.set)

    @property
    def module_name(self) -> str:
        """What `sys.modules` knows the function's entry module as."""
        stem = self.function.entrypoint.removesuffix(".py").replace("/", ".")
        return f"{ROOT}.{os.path.basename(self.function.directory)}.{stem}"

    @property
    def running(self) -> bool:
        """Whether it is between `start` and `stop`."""
        return self._done is not None

    def _emit(self, level: str, text: str, request_id: str) -> None:
        call = current.get()
        request_id = request_id or (call.id if call is not None else "")
        self.log.tell(text, level=level, function=self.function.name, request_id=request_id)

    def _run(self, temp: str, ready: Future[None], done: Future[None]) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._live(temp, ready))
        except BaseException as error:
            (done if ready.done() else ready).set_exception(error)
        else:
            done.set_result(None)

    async def _live(self, temp: str, ready: Future[None]) -> None:
        settings = self._project.settings
        boot_s = self.function.limits.boot_s
        forker = Inside(temp, self._environ, self._models, lambda *error: self.errors.append(error), boot_s)
        services = Services(forker, NoEngine(), self.log, settings.root, temp)
        registry = Registry(services, f"http://127.0.0.1:{settings.port}")
        authenticator = Authenticator(self._project.keys, settings.auth, None)
        internal = Internal(registry, authenticator, lambda: [], lambda: False)
        gateway = Gateway(settings, registry, authenticator, internal, self.log)
        await registry.apply(self._project)
        await registry.settled()
        if forker.failure is not None:
            raise forker.failure
        front = await self._front(gateway)
        listener = await self._loop.create_unix_server(front.protocol, self.socket)
        ready.set_result(None)
        await self._leave.wait()
        gateway.draining = True
        registry.forewarn("termination")
        listener.close()
        await front.close(settings.shutdown_s)
        await registry.close(settings.shutdown_s, "termination")

    async def _front(self, gateway: Gateway) -> Front:
        settings = self._project.settings
        app = CorsMiddleware(gateway, settings.cors, gateway.forwards_preflight)

        async def addressed(scope: Scope, receive: Receive, send: Send) -> None:
            scope["client"], scope["server"] = _CLIENT, (settings.host, settings.port)
            await app(scope, receive, send)

        protocol = guarded(settings.max_head_kb * 1024, settings.head_s, self._refused, settings.cors)
        front = Front(server.make(addressed, settings, protocol))
        await front.server.on_tick(0)  # writes the `date` header
        return front

    def _refused(self, status: int) -> None:
        self.log.tell(f"refused a request head with status {status}", level="warning")


def _short() -> str | None:
    """A folder whose path leaves room for a socket's name (a hundred characters); None: the usual."""
    return None if len(tempfile.gettempdir()) < 70 else "/tmp"
