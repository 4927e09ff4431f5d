"""The contract's table of errors, row by row, over a socket."""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from tests.conformance.wire import Answer, Wire, is_whole
from tests.running import Server, eventually, project, serving

GOOD = "async def handler(request): return 'fine'"
BOOT_FAILURES = {
    "syntax": ("def handler(request:\n", "SyntaxError"),
    "import": ("import no_such_module_at_all\nasync def handler(request): return 1", "no_such_module_at_all"),
    "raises-at-import": ("raise RuntimeError('secret detail of the boot')", "secret detail of the boot"),
    "exits-at-import": ("import sys\nsys.exit(3)", "SystemExit: 3"),
    "dies-at-import": ("import os\nos._exit(3)", "status 3"),
    "exports-nothing": ("value = 1", "exports neither `handler` nor `app`"),
    "exports-two": (
        "async def handler(request): return 1\nasync def app(scope, receive, send): pass",
        "exports both `handler` and `app`",
    ),
    "exports-no-function": ("handler = 7", "exports neither `handler` nor `app`"),
    "startup-fails": (
        "from contextlib import asynccontextmanager\n"
        "from starlette.applications import Starlette\n"
        "@asynccontextmanager\n"
        "async def lifespan(app):\n"
        "    raise RuntimeError('the database is away')\n"
        "    yield\n"
        "app = Starlette(lifespan=lifespan)",
        "the database is away",
    ),
    "slow-to-boot": ("import time\ntime.sleep(60)", "not ready within 0.5 s (boot_s)"),
}
CRASHES = {
    "raises": ("raise RuntimeError('secret detail of the handler')", "secret detail of the handler"),
    "raises-group": ("raise ExceptionGroup('many', [ValueError('detail one')])", "detail one"),
    "raises-timeout": ("raise TimeoutError('detail two')", "detail two"),
    "raises-oserror": ("raise ConnectionResetError('detail three')", "detail three"),
    "raises-base": ("raise GeneratorExit('detail four')", "detail four"),
    "cancels-itself": ("import asyncio; raise asyncio.CancelledError('detail five')", ""),
    "exits": ("import sys; sys.exit('secret detail of the exit')", "secret detail of the exit"),
    "interrupts": ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    "recurses": ("return await handler(request)", "RecursionError"),
    "dies": ("import os; os._exit(7)", "(status 7)"),
    "segfaults": ("import ctypes; ctypes.string_at(0)", "in string_at"),
    "is-killed": ("import os; os.kill(os.getpid(), 9)", "(signal 9)"),
}
INVALID = {
    "object": "object()",
    "function": "lambda: 1",
    "class": "dict",
    "module": "__import__('json')",
    "open-file": "open('/dev/null')",
    "complex": "1j",
    "nested": "{'deep': [object()]}",
    "circular": "(lambda items: items.append(items) or items)([])",
    "bad-key": "{object(): 1}",
    "exception": "ValueError('returned, not raised')",
}
CONFIG = """
[ai]
preload = []
[edge_runtime]
head_s = 0.5
[functions.missing] # a folder without an entry file counts once it is declared
[functions.slow-to-boot]
boot_s = 0.5
[functions.never-answers]
idle_s = 0.3
[functions.stalls-later]
idle_s = 0.3
[functions.small]
max_body_mb = 0.01
[functions.busy]
concurrency = 1
queue = 1
max_workers = 1
[functions.impatient]
concurrency = 1
max_workers = 1
queue_wait_s = 0.2
"""
HOLDS = "import asyncio\nasync def handler(request): await asyncio.sleep(3600)"
FUNCTIONS = {
    **{name: source for name, (source, _) in BOOT_FAILURES.items()},
    **{name: f"async def handler(request):\n    {body}" for name, (body, _) in CRASHES.items()},
    **{f"returns-{name}": f"async def handler(request): return {value}" for name, value in INVALID.items()},
    "good": GOOD,
    "missing/other.py": GOOD,
    "never-answers": HOLDS,
    "busy": HOLDS,
    "impatient": HOLDS,
    "stalls-later": """
import asyncio

async def handler(request):
    async def pieces():
        yield "begun"
        await asyncio.sleep(0.6)
        yield " and ended"
    return pieces()
""",
    "small": "async def handler(request): return len(await request.body())",
    "own-error": "from runtime import HTTPException\n"
    "async def handler(request): raise HTTPException(418, 'mine', headers={'x-own': '1'})",
    "own-500": "from runtime import Response\nasync def handler(request): return Response('mine', 500)",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(project(tmp_path_factory.mktemp("errors"), FUNCTIONS, CONFIG)) as server:
        yield server


def is_error(response: httpx2.Response, code: str, *, ran: bool) -> dict[str, Any]:
    """Check a host-made error; `ran`: the function was called."""
    error: dict[str, Any] = response.json()
    is_whole(error, response.status_code, code, response.headers)
    assert ("x-relay-error" in response.headers) is not ran
    return error


def refused(answer: Answer, code: str) -> dict[str, Any]:
    error: dict[str, Any] = answer.json()
    is_whole(error, answer.status, code, answer.headers)
    assert answer.headers["x-relay-error"] == "true"
    return error


# --- 404, 401 ------------------------------------------------------------------------------


def test_no_such_function(client: httpx2.Client) -> None:
    is_error(client.get("/nope"), "NOT_FOUND", ran=False)


def test_no_credentials(client: httpx2.Client) -> None:
    del client.headers["authorization"]
    is_error(client.get("/good"), "UNAUTHORIZED_NO_AUTH_HEADER", ran=False)


# --- 503 BOOT_ERROR ------------------------------------------------------------------------


@pytest.mark.parametrize("name", BOOT_FAILURES)
def test_a_function_that_does_not_boot(client: httpx2.Client, server: Server, name: str) -> None:
    reason = BOOT_FAILURES[name][1]
    server.wait_for_log(f"{name} did not start")
    server.wait_for_log(reason)
    error = is_error(client.get(f"/{name}"), "BOOT_ERROR", ran=False)
    assert reason not in error["message"]
    assert "log" in error["message"]


def test_a_function_without_its_entry_file(client: httpx2.Client, server: Server) -> None:
    error = is_error(client.get("/missing"), "BOOT_ERROR", ran=False)
    assert str(server.root) not in error["message"]
    server.wait_for_log("missing/index.py does not exist")


def test_a_function_that_does_not_boot_hurts_no_other_and_starts_once_it_is_mended(tmp_path: Path) -> None:
    root = project(tmp_path, {"good": GOOD, "bad": "import no_such_module_at_all"})
    with serving(root) as server, server.client() as client:
        assert client.get("/good").text == "fine"
        assert client.get("/bad").json()["code"] == "BOOT_ERROR"
        (root / "functions" / "bad" / "index.py").write_text(GOOD)
        eventually(lambda: client.get("/bad").status_code == 200, "the mended function")


# --- 500 WORKER_ERROR ----------------------------------------------------------------------


@pytest.mark.parametrize("name", CRASHES)
def test_a_handler_that_fails_names_no_internals_and_the_log_tells_them_under_the_request_id(
    client: httpx2.Client, server: Server, name: str
) -> None:
    reason = CRASHES[name][1]
    request_id = f"crash-{name}"
    response = client.get(f"/{name}", headers={"sb-request-id": request_id})
    error = is_error(response, "WORKER_ERROR", ran=True)
    assert error["request_id"] == request_id
    for internal in ("detail", "Traceback", "index.py", str(server.root), "RuntimeError", "exit"):
        assert internal not in error["message"].replace("exited", "")
    server.wait_for_log(reason)
    if name.startswith(("raises", "exits", "recurses")):
        told = next(line for line in server.log.splitlines() if f"[{request_id}]" in line)
        assert f" ERROR   {name}/" in told
        assert "Traceback (most recent call last)" in told
        server.wait_for_log(f'functions/{name}/index.py", line 2, in handler')


@pytest.mark.parametrize("name", ["dies", "segfaults", "is-killed", "exits"])
def test_a_function_that_crashed_is_back_for_the_next_request(client: httpx2.Client, name: str) -> None:
    for _ in range(2):
        is_error(client.get(f"/{name}"), "WORKER_ERROR", ran=True)


def test_a_crash_hurts_no_other_function(client: httpx2.Client, server: Server) -> None:
    pids = server.metric()["functions"]["good"]["pids"]
    for name in ("dies", "segfaults"):
        assert client.get(f"/{name}").status_code == 500
    assert client.get("/good").text == "fine"
    assert server.metric()["functions"]["good"]["pids"] == pids


# --- 502 INVALID_RESPONSE ------------------------------------------------------------------


@pytest.mark.parametrize("name", INVALID)
def test_a_value_that_is_no_response(client: httpx2.Client, server: Server, name: str) -> None:
    response = client.get(f"/returns-{name}", headers={"sb-request-id": f"invalid-{name}"})
    is_error(response, "INVALID_RESPONSE", ran=True)
    server.wait_for_log(f"[invalid-{name}] InvalidResponse")


# --- 504 IDLE_TIMEOUT ----------------------------------------------------------------------


def test_no_first_byte_within_the_idle_limit(client: httpx2.Client) -> None:
    error = is_error(client.get("/never-answers"), "IDLE_TIMEOUT", ran=True)
    assert "idle_s" in error["message"]


def test_silence_after_the_first_byte_breaks_the_response_off(client: httpx2.Client) -> None:
    with pytest.raises(httpx2.RemoteProtocolError):
        client.get("/stalls-later")


# --- 413, 431, 408, 400 --------------------------------------------------------------------


def test_a_body_over_the_limit_by_its_length_is_refused_unread(dial: Callable[[], Wire]) -> None:
    wire = dial()
    wire.send(wire.head_of("POST", "/functions/v1/small", length=10_001))
    error = refused(wire.answer(), "PAYLOAD_TOO_LARGE")
    assert "max_body_mb" in error["message"]


def test_a_body_over_the_limit_without_a_length_is_refused_when_it_shows(wire: Wire) -> None:
    wire.send(wire.head_of("POST", "/functions/v1/small", "Transfer-Encoding: chunked"))
    for _ in range(11):
        wire.send_chunk(b"x" * 1000)
    answer = wire.answer()
    is_whole(answer.json(), answer.status, "PAYLOAD_TOO_LARGE", answer.headers)


def test_the_whole_of_a_body_that_is_too_large_may_be_sent_before_the_answer_is_read(
    dial: Callable[[], Wire],
) -> None:
    body = b"x" * 3_000_000
    by_length = dial()
    by_length.ask("POST", "/functions/v1/small", body=body)
    refused(by_length.answer(), "PAYLOAD_TOO_LARGE")
    chunked = dial()
    chunked.send(chunked.head_of("POST", "/functions/v1/small", "Transfer-Encoding: chunked"))
    for offset in range(0, len(body), 60_000):
        chunked.send_chunk(body[offset : offset + 60_000])
    chunked.send_chunk(b"")
    answer = chunked.answer()
    is_whole(answer.json(), answer.status, "PAYLOAD_TOO_LARGE", answer.headers)


def test_a_body_just_under_the_limit_passes(client: httpx2.Client) -> None:
    assert client.post("/small", content=b"x" * 10_000).json() == 10_000
    assert client.post("/small", content=iter([b"x" * 5_000] * 2)).json() == 10_000


def test_a_header_block_that_is_too_large(wire: Wire) -> None:
    wire.ask("GET", "/functions/v1/good", f"X-Long: {'x' * 70_000}")
    refused(wire.answer(), "HEADERS_TOO_LARGE")


def test_a_head_that_does_not_come(dial: Callable[[], Wire]) -> None:
    for beginning in (b"", b"GET /functions/v1/good HTTP/1.1\r\nHost: loc"):
        wire = dial()
        wire.send(beginning)
        refused(wire.answer(), "REQUEST_TIMEOUT")
        assert wire.rest() == b""


@pytest.mark.parametrize("length", ["abc", "-1", "1, 2", "0x10", "१२"])
def test_a_length_that_is_none_is_a_bad_request(wire: Wire, length: str) -> None:
    wire.ask("POST", "/functions/v1/good", f"Content-Length: {length}")
    refused(wire.answer(), "BAD_REQUEST")


# --- 429 OVERLOADED ------------------------------------------------------------------------


@pytest.fixture
def full(dial: Callable[[], Wire], server: Server) -> Iterator[list[Wire]]:
    """The function `busy` has all that it may have: one request in its hands, one in the queue."""

    def state() -> dict[str, int]:
        found: dict[str, int] = server.metric()["functions"]["busy"]
        return found

    eventually(lambda: state()["in_flight"] == 0, "the last test's end")
    waiting = [dial(), dial()]
    waiting[0].ask("POST", "/functions/v1/busy")
    eventually(lambda: state()["in_flight"] == 1, "a request in flight")
    waiting[1].ask("POST", "/functions/v1/busy")
    eventually(lambda: state()["queued"] == 1, "a request in the queue")
    yield waiting
    for wire in waiting:
        wire.close()


@pytest.mark.usefixtures("full")
def test_a_full_queue_is_told_at_once_and_when_to_come_back(client: httpx2.Client) -> None:
    took = []
    for _ in range(5):
        began = time.perf_counter()
        response = client.post("/busy", content=b"x" * 1000)
        took.append(time.perf_counter() - began)
        is_error(response, "OVERLOADED", ran=False)
        assert int(response.headers["retry-after"]) >= 1
    assert min(took) < 0.05


@pytest.mark.usefixtures("full")
def test_a_full_queue_never_resets_a_connection_whatever_the_client_is_sending(
    dial: Callable[[], Wire],
) -> None:
    wires = [dial() for _ in range(20)]
    for number, wire in enumerate(wires):
        wire.ask("POST", "/functions/v1/busy", body=b"x" * 100_000 * number)
    for wire in wires:
        answer = wire.answer()
        refused(answer, "OVERLOADED")
        assert answer.headers["retry-after"]
        wire.ask("GET", "/functions/v1/good")  # the connection is fit for another request
        assert wire.answer().body == b"fine"


def test_a_place_in_the_queue_becomes_free_when_a_client_leaves(
    full: list[Wire], server: Server, dial: Callable[[], Wire]
) -> None:
    full[1].close()
    eventually(lambda: server.metric()["functions"]["busy"]["queued"] == 0, "the place")
    again = dial()
    again.ask("POST", "/functions/v1/busy")
    eventually(lambda: server.metric()["functions"]["busy"]["queued"] == 1, "the next in the queue")


def test_a_wait_in_the_queue_that_is_too_long(dial: Callable[[], Wire], server: Server) -> None:
    first = dial()
    first.ask("POST", "/functions/v1/impatient")
    eventually(lambda: server.metric()["functions"]["impatient"]["in_flight"] == 1, "the first")
    second = dial()
    second.ask("POST", "/functions/v1/impatient")
    answer = second.answer()
    refused(answer, "OVERLOADED")
    assert answer.headers["retry-after"]


# --- 503 SHUTTING_DOWN ---------------------------------------------------------------------


def test_a_request_that_comes_while_the_server_shuts_down(tmp_path: Path) -> None:
    with serving(project(tmp_path, {"good": GOOD})) as server:
        wire = Wire(server)
        wire.ask("GET", "/functions/v1/good")
        assert wire.answer().status == 200
        supervisor, gateway = psutil.Process(server.pid), server.pid_of("fn-gateway")
        # The gateway is held still until both the order to stop and the request are there.
        os.kill(gateway, signal.SIGSTOP)
        try:
            before = supervisor.num_ctx_switches().voluntary
            server.process.send_signal(signal.SIGTERM)
            eventually(lambda: supervisor.num_ctx_switches().voluntary > before, "the order")
            wire.ask("GET", "/functions/v1/good")
        finally:
            os.kill(gateway, signal.SIGCONT)
        answer = wire.answer()
        refused(answer, "SHUTTING_DOWN")
        assert answer.headers["retry-after"]
        assert wire.rest() == b""
        wire.close()
        assert server.process.wait(20) == 0


def test_what_does_not_end_in_time_when_the_server_shuts_down(tmp_path: Path) -> None:
    config = CONFIG.replace("head_s = 0.5", "shutdown_s = 1")
    with serving(project(tmp_path, {"busy": HOLDS}, config)) as server:
        wires = [Wire(server), Wire(server)]
        for wire, key in zip(wires, ("in_flight", "queued"), strict=True):
            wire.ask("POST", "/functions/v1/busy")
            eventually(lambda key=key: server.metric()["functions"]["busy"][key] == 1, key)  # type: ignore[misc]
        server.process.send_signal(signal.SIGTERM)
        for wire, ran in zip(wires, (True, False), strict=True):
            answer = wire.answer()
            is_whole(answer.json(), answer.status, "SHUTTING_DOWN", answer.headers)
            assert ("x-relay-error" in answer.headers) is not ran
            assert answer.headers["retry-after"]
            wire.close()
        assert server.process.wait(20) == 0


# --- ids -----------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["/good", "/nope", "/raises", "/own-500", "/syntax"])
def test_a_valid_id_of_the_client_is_taken(client: httpx2.Client, target: str) -> None:
    for request_id in ("0", "a.b_c-D", "x" * 128, str(uuid.uuid4())):
        response = client.get(target, headers={"sb-request-id": request_id})
        assert response.headers.get_list("sb-request-id") == [request_id]


@pytest.mark.parametrize(
    "sent", [[""], ["x" * 129], ["a b"], ["a/b"], ['"a"'], ["é".encode()], ["one", "two"], ["same", "same"]]
)
@pytest.mark.parametrize("target", ["/good", "/nope"])
def test_any_other_id_is_replaced_by_a_fresh_one(
    client: httpx2.Client, sent: list[str | bytes], target: str
) -> None:
    headers = [("sb-request-id", value) for value in sent] + [
        ("authorization", client.headers["authorization"])
    ]
    told = {
        str(uuid.UUID(client.get(target, headers=headers).headers["sb-request-id"]))  # type: ignore[arg-type]
        for _ in range(2)
    }
    assert len(told) == 2


# --- what is not ours ----------------------------------------------------------------------


def test_an_error_of_the_function_s_own_is_its_own(client: httpx2.Client) -> None:
    raised = client.get("/own-error")
    assert (raised.status_code, raised.json(), raised.headers["x-own"]) == (418, {"message": "mine"}, "1")
    returned = client.get("/own-500")
    assert (returned.status_code, returned.text) == (500, "mine")
    for response in (raised, returned):
        assert "sb-error-code" not in response.headers
        assert "x-relay-error" not in response.headers
