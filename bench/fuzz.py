"""What nobody should send, 100,000 times: only a 4xx, a close, or the answer to what is valid after all."""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import psutil
import uvloop

from bench import servers
from bench.inputs import NEVER, Credentials, Input, Maker
from bench.servers import Server
from bench.shapes import INJECTED
from bench.table import Number

INPUTS = 100_000
AT_A_TIME = 64
PER_SECOND = 1000.0
SILENCE_S = 0.06  # a connection on which so long nothing is said has nothing more to say
PATIENCE_S = 10.0  # what must be answered has this long
SHOWN = 5  # troubles that are told with their input

OPEN = """
async def handler(request):
    told = {
        "method": request.method,
        "url": str(request.url),
        "path": request.scope["path"],
        "query": request.query_params.multi_items(),
        "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in request.headers.raw],
        "cookies": request.cookies,
        "client": request.client,
        "body": len(await request.body()),
    }
    return {name: str(value).replace("HTTP/", "http/") for name, value in told.items()}
"""
APP = """
from pathlib import Path
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

async def show(request):
    return JSONResponse({"path": request.url.path, "params": request.path_params})

files = StaticFiles(directory=Path(__file__).with_name("files"))
app = Starlette(routes=[Mount("/files", files), Route("/{name}", show), Route("/{rest:path}", show)])
"""
TALK = """
async def handler(request):
    return "open a WebSocket"

async def websocket(ws):
    await ws.accept()
    while True:
        message = await ws.receive()
        if message["type"] == "websocket.disconnect":
            return
        if message.get("text") is not None:
            await ws.send_text(message["text"].replace("HTTP/", "http/"))
        else:
            await ws.send_bytes(message["bytes"])
"""
NOBODY = "def handler(request):\n    return 'this was hidden in another request'\n"
CONFIG = """
[ai]
preload = []
[edge_runtime.defaults]
max_body_mb = 1
max_workers = 1
[functions.open]
verify_jwt = false
[functions.app]
verify_jwt = false
[functions.talk]
verify_jwt = false
[functions.echo]
verify_jwt = false
[functions.upload]
verify_jwt = false
[functions.never]
verify_jwt = false
"""
FUNCTIONS = {
    "open": OPEN,
    "locked": OPEN,
    "app": APP,
    "talk": TALK,
    "never": NOBODY,
    "hello": "",
    "echo": "",
    "upload": "",
}

_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
_WHOLE = re.compile(rb"HTTP/1\.1 200 .*?\r\ncontent-length: (\d+)\r\n.*?\r\n\r\n", re.DOTALL | re.IGNORECASE)


class _Line(msgspec.Struct):
    """What of a line of the log is looked at."""

    message: str = ""
    status: int = 0
    path: str = ""
    request_id: str = ""
    level: str = ""


class Log:
    """Reads what the server prints, while it prints it.

    Attributes:
        troubles: lines that no input may cause.
    """

    def __init__(self) -> None:
        self.troubles: list[str] = []
        self._rest = b""
        self._decode = msgspec.json.Decoder(_Line).decode

    def __call__(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if (trouble := self._judge(line)) and len(self.troubles) < 1000:
                self.troubles.append(f"{trouble}: {line.decode('utf-8', 'replace')}")

    def _judge(self, raw: bytes) -> str:
        if b"Traceback" in raw or b"Error:" in raw:
            return "a traceback"
        try:
            line = self._decode(raw)
        except msgspec.MsgspecError:
            return ""  # the banner
        if line.status >= 500 or line.level == "error":
            return f"a {line.status}" if line.status else "an error"
        return "a hidden request was run" if line.path == NEVER.decode() else ""


class Canary:
    """Contents of files that no request may show."""

    def __init__(self, root: Path) -> None:
        self.text = f"canary-{secrets.token_hex(8)}".encode()
        functions = root / "functions"
        (functions / "app" / "files").mkdir()
        (functions / "app" / "files" / "fine.txt").write_text("may be seen")
        for folder in (
            root.parent,
            root,
            functions,
            functions / "open",
            functions / "app",
            root / "supabase",
        ):
            (folder / "canary.txt").write_bytes(self.text)
        with (root / "supabase" / "functions" / ".env").open("ab") as env:
            env.write(b"CANARY=" + self.text + b"\n")


class Fuzz:
    """Sends inputs to a server and judges what comes back.

    Args:
        forbidden: what no answer may contain.
        per_second: how many it sends at most.

    Attributes:
        answers: how often each status, or a close without one, was given.
        troubles: what was wrong, with the input that it was wrong with.
    """

    def __init__(self, port: int, forbidden: list[bytes], per_second: float = PER_SECOND) -> None:
        self.answers: Counter[str] = Counter()
        self.troubles: list[tuple[str, Input]] = []
        self._port, self._forbidden, self._pause = port, forbidden, 1 / per_second
        self._next = 0.0

    async def run(self, inputs: Iterator[Input]) -> None:
        """Send them all, some at a time."""
        self._next = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_A_TIME):
                group.create_task(self._work(inputs))

    async def _work(self, inputs: Iterator[Input]) -> None:
        for given in inputs:
            self._next = max(self._next + self._pause, time.monotonic() - 0.1)
            await asyncio.sleep(self._next - time.monotonic())
            received = await self.send(given)
            statuses = [int(found) for found in _STATUS.findall(received)]
            self.answers.update(map(str, statuses) if statuses else ["closed, or nothing"])
            if trouble := self._judge(given, received, statuses):
                self.troubles.append((f"{trouble}; it was answered {received[:2000]!r}", given))

    async def send(self, given: Input) -> bytes:
        """Everything that is answered to one input."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        received = b""
        # It may close while we are sending; uvloop calls that a RuntimeError, if it has noticed.
        with contextlib.suppress(OSError, RuntimeError):
            for number, piece in enumerate(given.pieces):
                if given.waits and number == 1:
                    received = await _heard(reader)
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.001 if len(given.pieces) > 1 else 0)
        with contextlib.suppress(OSError):
            while not _is_whole(given, received):
                piece = await _heard(reader, PATIENCE_S if given.expected == "success" else SILENCE_S)
                if not piece:
                    break
                received += piece
        (writer.transport.abort if given.number % 3 else writer.close)()
        return received

    def _judge(self, given: Input, received: bytes, statuses: list[int]) -> str:
        if received and not received.startswith(b"HTTP/1.1 "):
            return "the answer is no HTTP"
        if any(status >= 500 for status in statuses):
            return "a 5xx"
        if any(text in received for text in self._forbidden):
            return "it shows what nobody may see"
        if b"\r\n" + INJECTED in received.lower():
            return "a header was injected"
        if given.expected == "success" and statuses != [200]:
            return "a valid request was not answered"
        if given.expected == "refusal" and (len(statuses) > 1 or any(status < 400 for status in statuses)):
            return "an ambiguous request was not refused"
        return ""


async def _heard(reader: asyncio.StreamReader, seconds: float = PATIENCE_S) -> bytes:
    """What is said next; nothing at the end, or when nothing is said for so long."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            return await reader.read(65536)
    return b""


def _is_whole(given: Input, received: bytes) -> bool:
    """A valid request has its answer; of others nobody knows when they have."""
    if given.expected != "success" or (head := _WHOLE.match(received)) is None:
        return False
    return len(received) >= head.end() + int(head[1])


def shown(seed: int, trouble: str, given: Input) -> str:
    """A trouble and how to see it again."""
    pieces = ", ".join(repr(piece if len(piece) < 3000 else piece[:3000] + b" ...") for piece in given.pieces)
    again = f"python -m bench fuzz --seed {seed} --only {given.number}"
    return f"input {given.number}: {trouble}\n  sent: {pieces}\n  again: {again}"


class State:
    """What the server's processes hold."""

    def __init__(self, server: Server) -> None:
        self.names = server.family()
        self.pids = set(self.names)
        processes = [psutil.Process(pid) for pid in self.pids]
        self.descriptors = sum(process.num_fds() for process in processes)
        self.rss = {process.pid: process.memory_info().rss for process in processes}

    def grown(self, before: State) -> tuple[float, str]:
        """By how many MB the process has grown that has grown most, and its name."""
        grown = {pid: (self.rss.get(pid, 0) - rss) / 1e6 for pid, rss in before.rss.items()}
        most = max(grown, key=grown.__getitem__)
        return grown[most], self.names.get(most, "")


@contextlib.contextmanager
def place(log: Callable[[bytes], None]) -> Iterator[tuple[Server, Canary]]:
    """A server whose log is read, and what lies around it that nobody may see."""
    command = ["runtime.cli.main", "serve", "--port", "0", "--log-format", "json", "--root"]
    with servers.project(FUNCTIONS, CONFIG) as outer:
        root = outer / "project"
        root.mkdir()
        for name in ("functions", "supabase"):
            (outer / name).rename(root / name)
        canary = Canary(root)
        with servers.running(Server([*command, str(root)], {"JWT_SECRET": servers.SECRET}, log)) as server:
            servers.eventually(lambda: _are(server, "ready"), "all functions")
            yield server, canary


def _are(server: Server, state: str) -> bool:
    return all(found["state"] == state for found in server.metric().values())


def inputs(seed: int, numbers: range) -> Iterator[Input]:
    """The inputs of a seed."""
    credentials = Credentials(servers.SECRET.encode(), servers.token().encode())
    return (Maker(seed, number, credentials).make() for number in numbers)


def measure(inputs: int = INPUTS, seed: int | None = None, only: int | None = None) -> list[Number]:
    """Send them, and look at everything afterwards.

    Args:
        inputs: how many.
        seed: of them; None: a random one. It is printed.
        only: send this one alone.
    """
    seed = secrets.randbelow(10**9) if seed is None else seed
    print(f"seed {seed}", file=sys.stderr, flush=True)
    log = Log()
    with place(log) as (server, canary):
        fuzz = Fuzz(server.port, [canary.text, servers.SECRET.encode()])
        numbers = range(inputs) if only is None else range(only, only + 1)
        before, after, seconds = _sent(fuzz, server, seed, numbers)
        hello = server.ask("hello")
    for trouble, given in fuzz.troubles[:SHOWN]:
        print(shown(seed, trouble, given), file=sys.stderr, flush=True)
    for told in log.troubles[:SHOWN]:
        print(told, file=sys.stderr, flush=True)
    return _numbers(fuzz, log, before, after, len(numbers) / seconds, hello)


def _sent(fuzz: Fuzz, server: Server, seed: int, numbers: range) -> tuple[State, State, float]:
    """The state half-way, when everything that grows once has grown, and at the end."""
    cut = len(numbers) // 2
    began = time.monotonic()
    uvloop.run(fuzz.run(inputs(seed, numbers[:cut])))
    before = _rested(server)
    uvloop.run(fuzz.run(inputs(seed, numbers[cut:])))
    seconds = time.monotonic() - began
    return before, _rested(server), seconds


def _rested(server: Server) -> State:
    """The state once nothing is in flight."""
    servers.eventually(lambda: _is_idle(server), "an end of all requests")
    time.sleep(2.5)  # longer than a refused client may linger
    return State(server)


def _is_idle(server: Server) -> bool:
    return not any(found["in_flight"] for found in server.metric().values())


def _numbers(fuzz: Fuzz, log: Log, before: State, after: State, rate: float, hello: str) -> list[Number]:
    """What is to be told."""
    counts = [
        Number(what=f"answered {answer}", value=count, unit="")
        for answer, count in sorted(fuzz.answers.items())
    ]
    grown, name = after.grown(before)
    return [
        Number(what="inputs per second", value=rate, unit="/s"),
        *counts,
        Number(what="answers that may not be", value=len(fuzz.troubles), unit="", most=0),
        Number(what="lines of the log that may not be", value=len(log.troubles), unit="", most=0),
        Number(what="processes that ended", value=len(before.pids - after.pids), unit="", most=0),
        Number(what="descriptors more", value=after.descriptors - before.descriptors, unit="", most=32),
        Number(what=f"memory more, {name}, which grew most", value=grown, unit="MB", most=8),
        Number(what="hello afterwards", value=float("Hello" in hello), unit="", least=1),
    ]
