"""A function controls its worker process, and whatever it does there hurts only itself."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.running import HELLO, Server, eventually, project, serving

# What a function can find in its own process: the descriptors that the house has given it.
TOOLS = '''
import errno, gc, os, socket, struct, threading
import msgspec

def descriptors(kind):
    """Descriptors of a kind: how the kernel calls them, by their number."""
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        if kind in target and int(name) > 2:
            yield int(name)

def raw(tag, *fields, fds=0):
    payload = msgspec.msgpack.encode([tag, *fields])
    return struct.pack("<I", len(payload) | fds << 24) + payload

def links():
    """The connections to the gateway, as the house's own code in this process has them."""
    return [found for found in gc.get_objects() if type(found).__name__ == "Link"]

def say(where, data):
    """Write to the connection of this request, to one without a request, or to the control socket."""
    if where == "control":
        fd = links()[0]._host._door.sock.fileno()
    else:
        fd = next(link._fd for link in links() if (link._task is not None) == (where == "request"))
    view = memoryview(data)
    os.set_blocking(fd, True)
    while view:
        view = view[os.write(fd, view):]
    os.set_blocking(fd, False)
'''
MARKS = (
    TOOLS
    + """
def refused(change, *arguments):
    try:
        change(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
    return ""

def handler(request):
    return {
        "files": len([*descriptors("memfd:")]),
        "shrink": [refused(os.ftruncate, fd, 0) for fd in descriptors("memfd:")],
        "grow": [refused(os.ftruncate, fd, 1 << 24) for fd in descriptors("memfd:")],
        "sizes": [os.fstat(fd).st_size for fd in descriptors("memfd:")],
    }
"""
)
FLOOD = """
import os, threading

def print_without_end():
    lines = b"x\\n" * 20_000
    while True:
        os.write(1, lines)

async def handler(request):
    if request.url.path.endswith("begin"):
        threading.Thread(target=print_without_end, daemon=True).start()
    return {"prints": True}
"""
SPEAKER = (
    TOOLS
    + """
SAID = {
    "accepted": raw("A") * 50_000,
    "injection": raw("S", 200, [[b"x", b"a\\r\\nset-cookie: b"]]) + raw("B", b"", False),
    "status": raw("S", 101, []) + raw("B", b"", False),
    "huge status": raw("S", 10**12, []) + raw("B", b"", False),
    "lengths": raw("S", 200, [[b"content-length", b"1"], [b"content-length", b"2"]]) + raw("B", b"", False),
    "no length": raw("S", 200, [[b"Content-Length", b"9" * 5000]]) + raw("B", b"", False),
    "body first": raw("B", b"hi", False),
    "socket": raw("WA", None, []),
    "failure": raw("F", "A\\r\\nset-cookie: b", "x"),
    "late start": raw("S", 200, []) + raw("B", b"hi", True) + raw("S", 200, []),
    "pieces": raw("S", 200, []) + raw("B", b"", True) * 100_000 + raw("B", b"end", False),
}
UNASKED = {
    "answer": ("idle", raw("S", 200, []) + raw("B", b"of nobody's", False)),
    "accepted": ("idle", raw("A")),
    "ready": ("control", raw("RD", 1.0, False) * 50_000),
    "drained": ("control", raw("DD") * 50_000),
}

def send_descriptors():
    # With the bytes of one frame that never ends.
    null = os.open("/dev/null", os.O_RDONLY)
    with socket.socket(fileno=os.dup(links()[0]._host._door.sock.fileno())) as door:
        for piece in (b"\\xff\\xff\\x0f\\x00", *[b"x"] * 20):
            socket.send_fds(door, [piece], [null] * 50)

def speak(where, data):
    try:
        say(where, data)
    except OSError:
        pass  # it was heard

def handler(request):
    what = request.url.path.split("/")[-1]
    if "unasked" in request.url.path:
        threading.Timer(0.05, speak, UNASKED[what]).start()
    elif what in SAID:
        speak("request", SAID[what])
    elif what == "descriptors":
        send_descriptors()
    return {"pid": os.getpid()}
"""
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    functions = {"marks": MARKS, "flood": FLOOD, "speaker": SPEAKER, "hello": HELLO}
    root = project(tmp_path_factory.mktemp("hostile"), functions)
    with serving(root) as server:
        yield server


@pytest.fixture(autouse=True)
def _others_are_served(server: Server) -> Iterator[None]:
    """Whatever happened: the gateway is the same process, and another function answers."""
    gateway = server.pid_of("fn-gateway")
    yield
    with server.client() as client:
        for _ in range(50):
            assert client.post("/hello", json={"name": "x"}, timeout=5).json() == {"message": "Hello x!"}
    assert server.pid_of("fn-gateway") == gateway


def open_files(server: Server) -> int:
    return len([*Path(f"/proc/{server.pid_of('fn-gateway')}/fd").iterdir()])


def test_what_a_function_shares_with_the_gateway_keeps_its_size(server: Server) -> None:
    with server.client() as client:
        found = client.get("/marks").json()
        assert found["files"] >= 1
        assert set(found["shrink"]) == set(found["grow"]) == {"EPERM"}
        assert all(found["sizes"])
        assert client.get("/marks").status_code == 200


def test_a_function_that_prints_without_end_slows_nobody_else(server: Server) -> None:
    with server.client() as client:
        assert client.get("/flood/begin").json() == {"prints": True}
        server.wait_for_log(" x\n", 1000)
        began = time.monotonic()
        for _ in range(50):
            assert client.post("/hello", json={"name": "x"}).status_code == 200
        assert time.monotonic() - began < 3  # usually 0.03
        for _ in range(5):
            assert client.get("/flood").json() == {"prints": True}


@pytest.mark.parametrize(
    ("what", "status", "code"),
    [
        ("accepted", 500, "WORKER_ERROR"),
        ("injection", 502, "INVALID_RESPONSE"),
        ("status", 502, "INVALID_RESPONSE"),
        ("huge status", 502, "INVALID_RESPONSE"),
        ("lengths", 502, "INVALID_RESPONSE"),
        ("no length", 502, "INVALID_RESPONSE"),
        ("body first", 500, "WORKER_ERROR"),
        ("socket", 500, "WORKER_ERROR"),
        ("failure", 500, "WORKER_ERROR"),
    ],
)
def test_what_a_function_says_behind_our_back_is_an_error_of_the_contract(
    server: Server, what: str, status: int, code: str
) -> None:
    with server.client() as client:
        answer = client.get(f"/speaker/{what}")
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert answer.headers["sb-error-code"] == code
        assert "set-cookie" not in answer.headers
        assert answer.json()["request_id"] == answer.headers["sb-request-id"]


def test_a_response_that_begins_twice_is_broken(server: Server) -> None:
    with server.client() as client, pytest.raises(httpx2.RemoteProtocolError):
        client.get("/speaker/late start")


def test_a_response_of_countless_pieces_is_a_response(server: Server) -> None:
    with server.client() as client:
        assert client.get("/speaker/pieces").text == "end"


@pytest.mark.parametrize("what", ["answer", "accepted", "ready", "drained"])
def test_a_function_that_speaks_unasked_is_ended_and_started_again(server: Server, what: str) -> None:
    with server.client() as client:
        before = client.get(f"/speaker/unasked/{what}").json()["pid"]
        eventually(lambda: before not in server.family(), "its end")
        assert client.get("/speaker").json()["pid"] != before


def test_descriptors_that_a_function_sends_do_not_fill_the_gateway(server: Server) -> None:
    with server.client() as client:
        before = open_files(server)
        assert client.get("/speaker/descriptors").status_code == 200
        assert open_files(server) < before + 50
