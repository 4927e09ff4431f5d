"""curl: what people type when they try a server."""

from __future__ import annotations

import hashlib
import json
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.clients import needs
from tests.clients.functions import BOOK
from tests.running import Server

Curl = Callable[..., subprocess.CompletedProcess[bytes]]

_TIMEOUT = ("--silent", "--show-error", "--max-time", "20", "--noproxy", "*")
_REFUSED = 22  # curl's exit status for an answer of 400 and above, when asked to fail
_COULD_NOT_CONNECT = 7
_TIMED_OUT = 28


@pytest.fixture(scope="module")
def curl(world: dict[str, str]) -> Curl:
    """Run curl with the anonymous key; the function's name (or a whole URL) comes first."""
    program = needs.curl()

    def run(name: str, *arguments: str, key: str = world["anon"], data: bytes = b"") -> Any:
        url = name if "://" in name else f"{world['url']}/functions/v1/{name}"
        authorization = ("-H", f"Authorization: Bearer {key}") if key else ()
        command = [program, *_TIMEOUT, *authorization, *arguments, url]
        return subprocess.run(command, input=data, capture_output=True, timeout=30)

    return run


def said(answer: subprocess.CompletedProcess[bytes]) -> Any:
    assert answer.returncode == 0, answer.stderr.decode()
    return json.loads(answer.stdout)


def headers_of(answer: subprocess.CompletedProcess[bytes]) -> tuple[int, dict[str, str]]:
    """The last status and headers that `--include` or `--head` printed."""
    assert answer.returncode == 0, answer.stderr.decode()
    head = answer.stdout.decode().replace("\r\n", "\n").split("\n\n")[0].splitlines()
    fields = (line.partition(": ") for line in head[1:])
    return int(head[0].split()[1]), {name.lower(): value for name, _, value in fields}


# --- keys ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "role"),
    [
        ("Authorization: Bearer {anon}", "anon"),
        ("authorization: bearer {anon}", "anon"),
        ("Authorization: {anon}", "anon"),
        ("apikey: {anon}", "anon"),
        ("apikey: {publishable}", "anon"),
        ("Authorization: Bearer {publishable}", "anon"),
        ("Authorization: Bearer {user}", "authenticated"),
    ],
)
def test_a_key_is_taken_where_people_put_it(
    curl: Curl, world: dict[str, str], header: str, role: str
) -> None:
    assert said(curl("mirror", "-H", header.format(**world), key=""))["auth"]["role"] == role


def test_without_a_key_the_answer_says_so(curl: Curl) -> None:
    answer = curl("mirror", "--fail-with-body", key="")
    assert answer.returncode == _REFUSED
    assert json.loads(answer.stdout)["code"] == "UNAUTHORIZED_NO_AUTH_HEADER"


def test_a_function_may_ask_for_no_key(curl: Curl) -> None:
    assert said(curl("public", key=""))["auth"] == {}


# --- what is sent --------------------------------------------------------------------------


def test_data_without_a_type_is_json_all_the_same(curl: Curl) -> None:
    assert said(curl("greet", "-d", '{"name":"Functions"}')) == {"message": "Hello Functions!"}
    assert said(curl("greet", "--json", '{"name":"Functions"}')) == {"message": "Hello Functions!"}


def test_a_query_is_encoded_by_curl(curl: Curl) -> None:
    seen = said(curl("mirror/deep", "--get", "--data-urlencode", "prompt=a short 🎤 song"))
    assert (seen["method"], seen["path"], seen["query"]) == (
        "GET",
        "/mirror/deep",
        {"prompt": "a short 🎤 song"},
    )


def test_a_form_carries_fields_and_a_file(curl: Curl, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("file text")
    answer = curl("form", "-F", "title=naïve", "-F", f"file=@{tmp_path}/notes.txt;type=text/plain")
    assert said(answer) == {"title": "naïve", "file": ["notes.txt", "text/plain", "file text"]}


def test_a_posted_form_is_read_too(curl: Curl) -> None:
    assert said(curl("form", "--data-urlencode", "title=a & b")) == {"title": "a & b"}


@pytest.mark.parametrize("how", ["with its length", "in chunks", "asking first", "by HTTP/1.0"])
def test_a_large_file_arrives_whole(curl: Curl, tmp_path: Path, how: str) -> None:
    data = bytes(range(256)) * 20_000
    (tmp_path / "large").write_bytes(data)
    arguments = {
        "with its length": ["--upload-file", f"{tmp_path}/large"],
        "in chunks": ["--upload-file", "-"],
        "asking first": ["--data-binary", f"@{tmp_path}/large", "-H", "Expect: 100-continue"],
        "by HTTP/1.0": ["--http1.0", "--data-binary", f"@{tmp_path}/large"],
    }[how]
    received = said(curl("files/", *arguments, data=data))
    assert received == {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def test_an_upload_that_is_too_large_ends_with_the_reason(curl: Curl) -> None:
    answer = curl("small", "--fail-with-body", "--data-binary", "@-", data=bytes(8_000_000))
    assert answer.returncode == _REFUSED, answer.stderr.decode()
    assert json.loads(answer.stdout)["code"] == "PAYLOAD_TOO_LARGE"


# --- what comes back -----------------------------------------------------------------------


def test_head_tells_the_length_and_sends_nothing(curl: Curl) -> None:
    status, headers = headers_of(curl("files", "--head"))
    assert (status, headers["content-length"]) == (200, str(len(BOOK)))
    assert headers["accept-ranges"] == "bytes"


def test_a_part_of_a_file_can_be_had(curl: Curl) -> None:
    answer = curl("files", "--range", "3-5", "--include")
    status, headers = headers_of(answer)
    assert (status, headers["content-range"]) == (206, f"bytes 3-5/{len(BOOK)}")
    assert answer.stdout.endswith(b"\r\n\r\n" + BOOK[3:6].encode())
    assert curl("files", "--range", "-5").stdout.decode() == BOOK[-5:]
    assert headers_of(curl("files", "--range", "1000-", "--include"))[0] == 416


def test_a_cut_download_is_resumed(curl: Curl, tmp_path: Path) -> None:
    part = tmp_path / "book.txt"
    part.write_text(BOOK[:20])
    assert curl("files", "--continue-at", "-", "--output", str(part)).returncode == 0
    assert part.read_text() == BOOK


def test_a_packed_answer_is_unpacked(curl: Curl) -> None:
    assert curl("kinds/gzip", "--compressed").stdout == b"unpacked"


def test_a_redirect_is_followed(curl: Curl) -> None:
    assert said(curl("kinds/redirect", "--location", "-d", ""))["text"] == "naïve 🎤"


def test_an_offer_of_http_2_is_passed_over(curl: Curl) -> None:
    answer = curl("mirror", "--http2", "--write-out", "%{stderr}%{http_version}")
    assert said(answer)["method"] == "GET"
    assert answer.stderr == b"1.1"


def test_one_connection_serves_many_requests(curl: Curl, server: Server) -> None:
    answer = curl("mirror?n=[1-20]", "--write-out", "%{stderr}%{num_connects} ", "--output", "/dev/null")
    assert answer.stderr.split() == [b"1"] + [b"0"] * 19


def test_an_error_tells_its_code_and_id_in_headers(curl: Curl) -> None:
    status, headers = headers_of(
        curl("nowhere", "--include", "-H", "sb-request-id: 7f3c3f6e-8a55-4f0a-9d2c-1b1e5f6a7b8c")
    )
    assert (status, headers["sb-error-code"], headers["x-relay-error"]) == (404, "NOT_FOUND", "true")
    assert headers["sb-request-id"] == "7f3c3f6e-8a55-4f0a-9d2c-1b1e5f6a7b8c"


def test_tokens_are_printed_as_they_come(world: dict[str, str], curl: Curl) -> None:
    run = f"tokens?run={uuid.uuid4()}"
    url = f"{world['url']}/functions/v1/{run}"
    command = [needs.curl(), *_TIMEOUT, "-N", url, "-H", f"Authorization: {world['anon']}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as stream:
        assert stream.stdout is not None
        for word in ("one", "two", "three 🎤"):
            event = f"data: {word}\n\n".encode()
            assert stream.stdout.read(len(event)) == event
            assert curl(run, "-d", "").returncode == 0
        assert stream.stdout.read() == b""
    assert stream.returncode == 0


# --- giving up -----------------------------------------------------------------------------


def test_giving_up_leaves_the_server_at_work(curl: Curl, nobody: str) -> None:
    assert curl("slow", "-d", "", "--max-time", "0.2").returncode == _TIMED_OUT
    assert said(curl("greet", "-d", '{"name":"again"}')) == {"message": "Hello again!"}
    assert curl(f"{nobody}/functions/v1/greet").returncode == _COULD_NOT_CONNECT
