"""Forms and uploaded files, as browsers send them, over a real server."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from tests.conformance.wire import Wire, is_whole
from tests.running import Server, body, eventually, project, serving

FORM = """
import asyncio
import hashlib
import os
from runtime import UploadFile, wait_until

kept = []

def place(file):
    return os.readlink(f"/proc/self/fd/{file.fileno()}").removesuffix(" (deleted)")

def temporary():
    links = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    return [os.readlink(link) for link in links if os.path.lexists(link) and "#" in os.readlink(link)]

async def handler(request):
    what = request.url.path.rpartition("/")[2]
    if what == "state":
        return {"closed": [file.file.closed for file in kept], "temporary": temporary()}
    kept.clear()
    try:
        form = await request.form()
    except ValueError as error:
        if what == "catches":
            return {"caught": str(error)}
        raise
    kept.extend(value for value in form.values() if isinstance(value, UploadFile))
    if what == "fails":
        raise RuntimeError("after the form")
    if what == "waits":
        print("it waits")
        await asyncio.Event().wait()
    answer = {}
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            data = await value.read()
            where = "" if value._in_memory else os.path.dirname(place(value.file))
            value = {
                "name": value.filename,
                "type": value.content_type,
                "size": value.size,
                "sha256": hashlib.sha256(data).hexdigest(),
                "in_tmpdir": where == os.environ["TMPDIR"],
            }
        answer.setdefault(name, []).append(value)
    return answer
"""
LARGE = hashlib.sha512(b"large").digest() * 80_000  # 5 MB: more than is kept in memory


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(project(tmp_path_factory.mktemp("forms"), {"form": FORM})) as server:
        yield server


def state(client: httpx2.Client) -> dict[str, list[object]]:
    return body(client.get("/form/state"))


def test_fields_and_files_arrive(client: httpx2.Client) -> None:
    answer = body(
        client.post(
            "/form",
            data={"text": "größer", "many": ["1", "2"]},
            files={"small": ("a b.txt", b"small", "text/plain"), "large": ("l.bin", LARGE)},
        )
    )
    assert (answer["text"], answer["many"]) == (["größer"], ["1", "2"])
    (small,), (large,) = answer["small"], answer["large"]
    assert (small["name"], small["type"], small["size"]) == ("a b.txt", "text/plain", 5)
    assert small["sha256"] == hashlib.sha256(b"small").hexdigest()
    assert (large["size"], large["sha256"]) == (len(LARGE), hashlib.sha256(LARGE).hexdigest())
    assert large["in_tmpdir"]  # it is the worker's own, and counts against its limit


def test_a_urlencoded_form_arrives(client: httpx2.Client) -> None:
    assert body(client.post("/form", data={"a": ["1", "ü &="]})) == {"a": ["1", "ü &="]}


@pytest.mark.parametrize("what", ["", "/fails"])
def test_files_are_closed_after_the_handler_whatever_happens(client: httpx2.Client, what: str) -> None:
    client.post(f"/form{what}", files={"a": b"small", "b": LARGE})
    closed = {"closed": [True, True], "temporary": []}
    eventually(lambda: state(client) == closed, "the files are closed, right after the answer")


def test_files_are_closed_when_the_client_leaves(
    client: httpx2.Client, dial: Callable[[], Wire], server: Server
) -> None:
    boundary = "Content-Type: multipart/form-data; boundary=edge"
    part = b'--edge\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n' + LARGE + b"\r\n"
    after = dial()
    after.ask("POST", "/functions/v1/form/waits", boundary, body=part + b"--edge--\r\n")
    server.wait_for_log("it waits")
    assert state(client)["closed"] == [False]
    after.reset()
    eventually(lambda: state(client) == {"closed": [True], "temporary": []}, "the file is closed")
    during = dial()
    during.send(during.head_of("POST", "/functions/v1/form", boundary, length=2 * len(part)) + part)
    eventually(lambda: state(client)["temporary"], "the file is being written")
    during.reset()
    eventually(lambda: not state(client)["temporary"], "the file is closed")


MISTAKES = {
    "garbage": (b"garbage", "Invalid multipart data"),
    "cut": (b'--edge\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n', "breaks off before its end"),
    "field": (
        b'--edge\r\nContent-Disposition: form-data; name="a"\r\n\r\n'
        + b"x" * 1_100_000
        + b"\r\n--edge--\r\n",
        "Part exceeded maximum size of 1024KB",
    ),
    "fields": (
        b'--edge\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n' * 1001 + b"--edge--\r\n",
        "Too many fields. Maximum number of fields is 1000",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_form_that_cannot_be_read_is_a_400_that_says_why(
    client: httpx2.Client, server: Server, mistake: str
) -> None:
    content, said = MISTAKES[mistake]
    headers = {"content-type": "multipart/form-data; boundary=edge"}
    response = client.post("/form", content=content, headers=headers)
    is_whole(response.json(), response.status_code, "BAD_REQUEST", response.headers)
    assert response.json()["message"].startswith("The form cannot be read: ")
    assert said in response.json()["message"]
    assert "x-relay-error" not in response.headers  # the function was run
    assert said in client.post("/form/catches", content=content, headers=headers).json()["caught"]
    assert "python_multipart" not in server.log  # it would say the same again
    assert state(client)["temporary"] == []


def test_a_form_over_the_bodys_limit_is_a_413(tmp_path: Path) -> None:
    config = "[ai]\npreload = []\n[functions.form]\nmax_body_mb = 1\n"
    with serving(project(tmp_path, {"form": FORM}, config)) as server, server.client() as client:
        response = client.post("/form", files={"f": LARGE})
        is_whole(response.json(), response.status_code, "PAYLOAD_TOO_LARGE", response.headers)
        assert "1 MB (max_body_mb)" in response.json()["message"]
