"""A worker's life: booting, serving, draining."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from runtime import frames
from runtime.ai import host as ai_host
from runtime.channel import Stream, open_stream
from runtime.door import Door, socket_pair
from runtime.errors import ChannelClosed
from runtime.ledger import new_file
from runtime.sharedfile import shared_file
from runtime.worker import logs, main
from runtime.worker.loader import ROOT, SnapshotFinder
from runtime.worker.main import Worker

pytestmark = pytest.mark.anyio

CONTROL = msgspec.msgpack.Decoder(frames.ControlFrame)
WORKER = msgspec.msgpack.Decoder(frames.WorkerFrame)
RESPONSES = msgspec.msgpack.Decoder(frames.ResponseFrame)
Told = list[tuple[str, str, str]]

HELLO = """
async def handler(request):
    return "hello"
"""
WAITS = """
import asyncio
from runtime import wait_until

go = asyncio.Event()

async def handler(request):
    if request.url.path == "/go":
        go.set()
    elif request.url.path == "/later":
        wait_until(later())
    elif request.url.path == "/fails":
        wait_until(fails())
    elif request.url.path == "/exits":
        wait_until(exits())
    else:
        await go.wait()
    return request.url.path

async def later():
    await go.wait()

async def fails():
    raise ValueError("after the answer")

async def exits():
    raise SystemExit(3)
"""
APP = """
from contextlib import asynccontextmanager
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

@asynccontextmanager
async def lifespan(app):
    print("startup")
    yield {"database": "open"}
    print("shutdown")

async def show(request):
    return PlainTextResponse(request.state.database)

app = Starlette(routes=[Route("/", show)], lifespan=lifespan)
"""


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A worker fills its process; the next one here must find it empty."""
    monkeypatch.setattr(gc, "freeze", lambda: None)
    monkeypatch.setattr(ai_host, "_host", None)
    yield
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, SnapshotFinder)]
    for name in [name for name in sys.modules if name.split(".")[0] == ROOT]:
        del sys.modules[name]


@pytest.fixture(autouse=True)
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    records: Told = []
    monkeypatch.setattr(
        logs, "emit", lambda level, text, request_id="": records.append((level, text, request_id))
    )
    return records


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - it is the state that is awaited, whoever sets it
            await asyncio.sleep(0)


class Life:
    """A worker with the test as its gateway."""

    def __init__(self, folder: str) -> None:
        ours, theirs = socket_pair()
        self._folder = folder
        self.gateway: Door[frames.WorkerFrame] = Door(ours, WORKER)
        self._control: Door[frames.ControlFrame] = Door(theirs, CONTROL)
        self.worker: Worker
        self.task: asyncio.Task[int] | None = None
        self.streams: list[Stream[frames.ResponseFrame]] = []
        self.heard: list[frames.WorkerFrame] = []
        self.parts: list[str] = []

    def begin(
        self, files: dict[str, str], early: list[tuple[Any, list[int]]] | None = None, **boot: Any
    ) -> None:
        archive = msgspec.msgpack.encode({name: text.encode() for name, text in files.items()})
        told = {"function": "f", "generation": "g", "directory": "/functions", "entrypoint": "f/index.py"}
        frame = frames.Boot(**{**told, "environ": {}, **boot})
        fds = [shared_file(archive), new_file(16)]
        self.worker = Worker(frame, fds, self._control, self._folder)
        self.task = asyncio.create_task(self.worker.live(early or []))

    async def hears(self) -> frames.WorkerFrame:
        """What it says next; how far its loading is goes to `parts`."""
        async with asyncio.timeout(10):
            while True:
                while not self.heard:
                    await asyncio.sleep(0)
                    self.heard += [frame for frame, _ in self.gateway.receive()]
                frame = self.heard.pop(0)
                if not isinstance(frame, frames.Loading):
                    return frame
                self.parts.append(frame.part)

    async def ready(self, source: str) -> frames.Ready:
        self.begin({"f/index.py": source})
        frame = await self.hears()
        assert isinstance(frame, frames.Ready)
        return frame

    async def connect(self, slot: int = 0) -> Stream[frames.ResponseFrame]:
        ours, theirs = socket_pair()
        self.gateway.send(frames.Connect(slot=slot), [theirs.detach()])
        self.streams.append(await open_stream(ours, lambda: Stream(RESPONSES)))
        return self.streams[-1]

    async def ask(self, path: str = "/f", stream: Stream[frames.ResponseFrame] | None = None) -> str:
        """The body of the answer."""
        stream = stream or await self.connect(len(self.streams))
        stream.send(
            frames.Head(request_id="request-1", method="GET", path=path, raw_path=path.encode(), headers=[])
        )
        data = b""
        async with asyncio.timeout(10):
            while True:
                frame = await stream.receive()
                assert not isinstance(frame, frames.Failure), frame
                if isinstance(frame, frames.Body):
                    data += frame.data
                    if not frame.more:
                        return data.decode()

    async def status(self) -> int:
        assert self.task is not None
        async with asyncio.timeout(10):
            return await self.task

    async def close(self) -> None:
        self.gateway.close()
        for stream in self.streams:
            stream.abort()
        if self.task is not None:
            await asyncio.wait([self.task], timeout=5)
        self._control.close(asyncio.get_running_loop())


@pytest.fixture
async def life(tmp_path: Path) -> AsyncIterator[Life]:
    life = Life(str(tmp_path))
    yield life
    await life.close()


# --- booting ------------------------------------------------------------------------------


async def test_a_function_that_loads_is_ready_and_serves(life: Life) -> None:
    ready = await life.ready(HELLO)
    assert ready.boot_ms > 0
    assert not ready.threaded
    assert await life.ask() == "hello"


async def test_a_plain_handler_is_told_to_be_one(life: Life) -> None:
    assert (await life.ready("def handler(request):\n    return 1\n")).threaded


async def test_ai_is_there_without_an_import(life: Life) -> None:
    await life.ready("name = ai.__name__\nasync def handler(request):\n    return name\n")
    assert await life.ask() == "runtime.ai"


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "ImportError: /functions/f/index.py does not exist"),
        ({"f/index.py": "x = 1\n"}, "exports neither `handler` nor `app`"),
        ({"f/index.py": "handler = 1\n"}, "exports `handler`, which cannot be called, for it is of type int"),
        (
            {"f/index.py": "def handler(request): ...\ndef app(scope): ...\n"},
            "exports both `handler` and `app`",
        ),
        ({"f/index.py": "def handler(:\n"}, "SyntaxError"),
        ({"f/index.py": "1 / 0\n"}, "ZeroDivisionError: division by zero"),
        ({"f/index.py": "import sys\nsys.exit(3)\n"}, "SystemExit: 3"),
        ({"f/index.py": "raise KeyboardInterrupt\n"}, "KeyboardInterrupt"),
        ({"f/index.py": "import no_such_module\n"}, "ModuleNotFoundError"),
    ],
    ids=["missing", "nothing", "no function", "both", "syntax", "raises", "exits", "interrupt", "import"],
)
async def test_a_function_that_does_not_load_says_why_and_ends(
    life: Life, files: dict[str, str], said: str
) -> None:
    life.begin(files)
    failure = await life.hears()
    assert isinstance(failure, frames.BootFailed)
    assert said in failure.message
    assert failure.message.split(":")[0] in failure.traceback
    assert await life.status() == 1


async def test_an_error_of_ours_at_boot_is_told_with_its_line_and_without_a_traceback(life: Life) -> None:
    source = "from runtime import ai\n\nsession = ai.Session('gte-smal')\n"
    life.begin({"f/index.py": "from . import model\n", "f/model.py": source})
    failure = await life.hears()
    assert isinstance(failure, frames.BootFailed)
    assert failure.message.startswith("ModelNotFound: There is no local model 'gte-smal'")
    assert failure.traceback == f"{failure.message}\n  in /functions/f/model.py:3"


async def test_an_application_starts_before_it_is_ready_and_stops_after_it_drained(
    life: Life, capsys: pytest.CaptureFixture[str]
) -> None:
    await life.ready(APP)
    assert capsys.readouterr().out == "startup\n"
    assert await life.ask() == "open"
    life.gateway.send(frames.Drain(5.0))
    assert await life.hears() == frames.Drained()
    assert capsys.readouterr().out == "shutdown\n"
    assert await life.status() == 0


async def test_an_application_whose_startup_fails_does_not_boot(life: Life) -> None:
    life.begin({"f/index.py": APP.replace('print("startup")', 'raise RuntimeError("no database")')})
    failure = await life.hears()
    assert isinstance(failure, frames.BootFailed)
    assert failure.message == "RuntimeError: the application's startup failed: RuntimeError: no database"
    assert 'raise RuntimeError("no database")' in failure.traceback


async def test_what_came_with_the_boot_message_is_done_after_it(life: Life) -> None:
    ours, theirs = socket_pair()
    life.begin({"f/index.py": HELLO}, early=[(frames.Connect(slot=0), [theirs.detach()])])
    assert isinstance(await life.hears(), frames.Ready)
    life.streams.append(await open_stream(ours, lambda: Stream(RESPONSES)))
    assert await life.ask(stream=life.streams[0]) == "hello"


# --- ending -------------------------------------------------------------------------------


async def test_a_worker_whose_gateway_is_gone_ends(life: Life) -> None:
    await life.ready(HELLO)
    life.gateway.close()
    assert await life.status() == 0


async def test_an_idle_worker_drains_at_once(life: Life) -> None:
    await life.ready(HELLO)
    await life.ask()
    life.gateway.send(frames.Drain(60.0))
    life.gateway.send(frames.Drain(60.0))
    assert await life.hears() == frames.Drained()
    assert await life.status() == 0


async def test_a_draining_worker_finishes_what_it_has(life: Life) -> None:
    await life.ready(WAITS)
    other = await life.connect(5)
    asked = asyncio.create_task(life.ask("/wait"))
    await until(lambda: life.worker._in_flight)
    life.gateway.send(frames.Drain(60.0))
    await until(lambda: life.worker._draining)
    assert not asked.done()
    assert await life.ask("/go", stream=other) == "/go"
    assert await asked == "/wait"
    assert await life.hears() == frames.Drained()


async def test_a_draining_worker_finishes_work_that_outlives_its_answer(life: Life) -> None:
    await life.ready(WAITS)
    assert await life.ask("/later") == "/later"
    life.gateway.send(frames.Drain(60.0))
    await until(lambda: life.worker._draining)
    assert life.task is not None
    assert not life.task.done()
    assert await life.ask("/go") == "/go"
    assert await life.hears() == frames.Drained()


async def test_a_drain_has_an_end(life: Life, told: Told) -> None:
    await life.ready(WAITS)
    asked = asyncio.create_task(life.ask("/wait"))
    await until(lambda: life.worker._in_flight)
    await life.ask("/later")
    life.gateway.send(frames.Drain(0.02))
    assert await life.hears() == frames.Drained()
    assert told == [("warning", "1 request and 1 task of wait_until did not end within 0.02 s", "")]
    asked.cancel()


@pytest.mark.parametrize(
    ("path", "error"), [("/fails", "ValueError: after the answer"), ("/exits", "SystemExit")]
)
async def test_work_that_fails_after_the_answer_is_logged_with_its_request(
    life: Life, told: Told, path: str, error: str
) -> None:
    await life.ready(WAITS)
    assert await life.ask(path) == path
    assert await life.ask("/go") == "/go"
    ((level, text, request_id),) = told
    assert (level, request_id) == ("error", "request-1")
    assert text.startswith("work given to wait_until failed\n")
    assert error in text


@pytest.mark.parametrize(
    "hangs", ["import asyncio; await asyncio.Event().wait()", "while True: await send()"]
)
async def test_a_lifespan_that_does_not_end_has_the_seconds_of_the_drain(
    life: Life, told: Told, monkeypatch: pytest.MonkeyPatch, hangs: str
) -> None:
    monkeypatch.setattr(main, "_LAST_S", 0.01)
    send = "import asyncio\nasync def send(): await asyncio.sleep(0)\n"
    await life.ready(send + APP.replace('print("shutdown")', hangs))
    life.gateway.send(frames.Drain(0.05))
    assert await life.hears() == frames.Drained()
    assert await life.status() == 0
    assert told == [("warning", "the application's lifespan shutdown did not end within 0.05 s", "")]


async def test_a_lifespan_whose_shutdown_fails_is_logged(life: Life, told: Told) -> None:
    await life.ready(APP.replace('print("shutdown")', 'raise ValueError("pool is stuck")'))
    life.gateway.send(frames.Drain(5.0))
    assert await life.hears() == frames.Drained()
    ((level, text, _),) = told
    assert level == "error"
    assert text.startswith("the application's shutdown failed\nTraceback")
    assert text.endswith("ValueError: pool is stuck")


async def test_the_gateway_is_told_which_part_of_loading_begins(life: Life) -> None:
    await life.ready("async def startup(): ...\n" + APP)
    assert life.parts == ["import", "startup", "lifespan"]


async def test_a_drained_worker_accepts_nothing_more(life: Life) -> None:
    await life.ready(APP.replace('print("shutdown")', "import asyncio; await asyncio.Event().wait()"))
    stream = await life.connect()
    assert await life.ask(stream=stream) == "open"
    life.gateway.send(frames.Drain(5.0))
    await until(lambda: life.worker.leaving)
    with pytest.raises(ChannelClosed):
        await life.ask(stream=stream)
    assert life.task is not None
    life.gateway.close()


async def test_a_worker_is_led_to_a_new_engine(life: Life) -> None:
    await life.ready(HELLO)
    ours, theirs = socket_pair()
    life.gateway.send(frames.EngineAt([frames.ModelCard("tiny", 8, 16)]), [theirs.detach()])
    await until(lambda: "tiny" in ai_host.current().models)
    ours.close()


# --- hooks --------------------------------------------------------------------------------

HOOKS = """
import asyncio
from contextlib import asynccontextmanager
from starlette.applications import Starlette

order = ["module"]
go = asyncio.Event()

async def startup():
    await asyncio.sleep(0)
    order.append("startup")

async def before_unload(reason):
    order.append(reason)
    await go.wait()
    order.append("unloaded")
"""
HOOKED_HANDLER = """
async def handler(request):
    if request.url.path == "/go":
        go.set()
    return ",".join(order)
"""
HOOKED_APP = """
@asynccontextmanager
async def lifespan(app):
    order.append("lifespan")
    yield
    order.append("shutdown")

app = Starlette(lifespan=lifespan)
"""


async def test_startup_runs_before_the_function_is_ready(life: Life) -> None:
    await life.ready(HOOKS + HOOKED_HANDLER)
    assert await life.ask() == "module,startup"


async def test_the_hooks_stand_around_an_apps_lifespan(life: Life) -> None:
    await life.ready(HOOKS + HOOKED_APP)
    order = sys.modules[f"{ROOT}.f.index"].order
    assert order == ["module", "startup", "lifespan"]
    life.gateway.send(frames.Drain(60.0, "termination"))
    await until(lambda: order[3:] == ["termination"])
    sys.modules[f"{ROOT}.f.index"].go.set()
    assert await life.hears() == frames.Drained()
    assert order[4:] == ["unloaded", "shutdown"]


async def test_before_unload_is_told_the_reason_once_and_requests_go_on_meanwhile(life: Life) -> None:
    await life.ready(HOOKS + HOOKED_HANDLER)
    await life.ask()
    life.gateway.send(frames.Unload("reload"))
    await until(lambda: life.worker._unloading)
    assert not life.worker._draining
    life.gateway.send(frames.Drain(60.0, "termination"))
    life.gateway.send(frames.Drain(60.0, "termination"))
    await until(lambda: life.worker._draining)
    (stream,) = life.streams
    assert await life.ask(stream=stream) == "module,startup,reload"
    assert not life.heard
    assert await life.ask("/go", stream=stream) == "module,startup,reload"
    assert await life.hears() == frames.Drained()
    assert await life.status() == 0


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise ValueError('no goodbye')", "ValueError: no goodbye"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("yield", "must not `yield`"),
    ],
)
@pytest.mark.parametrize("kind", ["def", "async def"])
async def test_a_before_unload_that_fails_is_logged_and_the_drain_goes_on(
    life: Life, told: Told, kind: str, body: str, said: str
) -> None:
    await life.ready(f"{HELLO}\n{kind} before_unload(reason):\n    {body}\n")
    life.gateway.send(frames.Drain(60.0))
    assert await life.hears() == frames.Drained()
    ((level, text, _),) = told
    assert level == "error"
    assert text.startswith("before_unload failed\n")
    assert said in text


async def test_a_before_unload_that_is_cancelled_is_logged(life: Life, told: Told) -> None:
    hook = "async def before_unload(reason):\n    import asyncio\n    asyncio.current_task().cancel()\n"
    await life.ready(HELLO + "\n" + hook + "    await asyncio.sleep(0)\n")
    life.gateway.send(frames.Drain(60.0))
    assert await life.hears() == frames.Drained()
    assert told == [("error", "before_unload was cancelled before its end", "")]


async def test_a_before_unload_that_hangs_has_the_seconds_of_the_drain(life: Life, told: Told) -> None:
    await life.ready(HOOKS + HOOKED_HANDLER)
    life.gateway.send(frames.Drain(0.05))
    assert await life.hears() == frames.Drained()
    assert await life.status() == 0
    text = "before_unload did not end within 0.05 s"
    assert told == [("warning", text, "")]


@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.parametrize("served", [HELLO, APP])
async def test_a_startup_that_fails_keeps_the_function_from_booting(
    life: Life, kind: str, served: str
) -> None:
    life.begin({"f/index.py": f"{served}\n{kind} startup():\n    raise ValueError('no database')\n"})
    failure = await life.hears()
    assert isinstance(failure, frames.BootFailed)
    assert failure.message == "ValueError: no database"
    assert "index.py" in failure.traceback
    assert "in startup" in failure.traceback
    assert await life.status() == 1


async def test_a_hook_of_the_wrong_signature_keeps_the_function_from_booting(life: Life) -> None:
    life.begin({"f/index.py": HELLO + "\nasync def before_unload(): ...\n"})
    failure = await life.hears()
    assert isinstance(failure, frames.BootFailed)
    assert "`before_unload` cannot be called as `async def before_unload(reason)`" in failure.message


async def test_a_function_reads_the_files_of_its_version(life: Life, tmp_path: Path) -> None:
    source = "from pathlib import Path\n" + HELLO.replace(
        '"hello"', "Path(__file__).with_name('x').read_text()"
    )
    life.begin({"f/index.py": source, "f/x": "this version"})
    assert isinstance(await life.hears(), frames.Ready)
    assert await life.ask() == "this version"
    assert (tmp_path / "files/f/index.py").is_file()
