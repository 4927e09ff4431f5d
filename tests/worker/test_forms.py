"""Forms, as a handler reads them."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from starlette.datastructures import UploadFile
from starlette.types import Message

from runtime.errors import InvalidForm, rule_of
from runtime.worker.adapt import from_handler
from runtime.worker.request import Request
from tests.worker.asgi import scope

pytestmark = pytest.mark.anyio

MULTIPART = [(b"content-type", b"multipart/form-data; boundary=edge")]
URLENCODED = [(b"content-type", b"application/x-www-form-urlencoded")]
END = b"--edge--\r\n"


def field(name: str, value: bytes, filename: str = "") -> bytes:
    extra = f'; filename="{filename}"' if filename else ""
    head = f'--edge\r\nContent-Disposition: form-data; name="{name}"{extra}\r\n\r\n'
    return head.encode() + value + b"\r\n"


def request(body: bytes, headers: list[tuple[bytes, bytes]], cut: int = 0) -> Request:
    size = cut or len(body) or 1
    pieces = [body[start : start + size] for start in range(0, len(body), size)] or [b""]
    events = [
        {"type": "http.request", "body": piece, "more_body": index + 1 < len(pieces)}
        for index, piece in enumerate(pieces)
    ]

    async def receive() -> Message:
        return events.pop(0)

    return Request(scope(method="POST", headers=headers), receive)


@pytest.mark.parametrize("cut", [0, 1, 7])
async def test_fields_and_files_arrive_however_they_are_cut(cut: int) -> None:
    body = (
        field("a", b"1")
        + field("a", "zwei \u00fc".encode())
        + field("f", b"\x00\xff\r\n--edg", "x.bin")
        + END
    )
    form = await request(body, MULTIPART, cut).form()
    assert form.getlist("a") == ["1", "zwei \u00fc"]
    file = form["f"]
    assert isinstance(file, UploadFile)
    assert (file.filename, file.size, await file.read()) == ("x.bin", 9, b"\x00\xff\r\n--edg")
    await form.close()


async def test_a_urlencoded_form_arrives() -> None:
    form = await request(b"a=1&a=2&b=%C3%BC+x&c", URLENCODED).form()
    assert form.multi_items() == [("a", "1"), ("a", "2"), ("b", "\u00fc x"), ("c", "")]


async def test_a_form_can_be_asked_for_twice_and_as_a_context() -> None:
    asked = request(field("f", b"x", "x.txt") + END, MULTIPART)
    async with asked.form() as form:
        assert await asked.form() is form
        file = form["f"]
        assert isinstance(file, UploadFile)
    assert file.file.closed


@pytest.mark.parametrize("headers", [[], [(b"content-type", b"application/json")]])
async def test_another_content_type_makes_an_empty_form(headers: list[tuple[bytes, bytes]]) -> None:
    assert not await request(b'{"a": 1}', headers).form()


async def test_an_empty_form_is_a_form() -> None:
    assert not await request(END, MULTIPART).form()
    assert not await request(b"", URLENCODED).form()


@pytest.mark.parametrize(
    ("body", "headers", "said"),
    [
        (b"garbage", MULTIPART, "Invalid multipart data"),
        (b"", MULTIPART, "breaks off before its end"),
        (field("a", b"1"), MULTIPART, "breaks off before its end"),
        (field("f", b"1", "x")[:-2], MULTIPART, "breaks off before its end"),
        (b"--edge\r\nContent-Disposition: form-data\r\n\r\n1\r\n" + END, MULTIPART, '"name" must be'),
        (b"--edge\r\n\r\n1\r\n" + END, MULTIPART, '"name" must be provided'),
        (END, [(b"content-type", b"multipart/form-data")], "Missing boundary"),
        (field("a", b"x" * 2_000_000) + END, MULTIPART, "exceeded maximum size"),
        (b"a=" + b"x" * 2_000_000, URLENCODED, "exceeded maximum size"),
        (field("a", b"1") * 1001 + END, MULTIPART, "Too many fields"),
        (field("f", b"1", "x") * 1001 + END, MULTIPART, "Too many files"),
        (b"a=1&" * 1001, URLENCODED, "Too many fields"),
    ],
    ids=["garbage", "empty", "cut", "cut-file", "no-name", "no-head", "no-boundary", "field", "encoded-field",
         "fields", "files", "encoded-fields"],
)  # fmt: skip
async def test_a_form_that_cannot_be_read_is_the_clients_mistake(
    body: bytes, headers: list[tuple[bytes, bytes]], said: str
) -> None:
    with pytest.raises(InvalidForm, match="The form cannot be read: ") as failure:
        await request(body, headers).form()
    assert said in failure.value.message
    assert isinstance(failure.value, ValueError)
    assert rule_of(failure.value).status == 400


@pytest.mark.parametrize("charset", ["undefined", "UNDEFINED"])
async def test_a_charset_that_text_cannot_have_is_the_clients_mistake(charset: str) -> None:
    kind = f"multipart/form-data; boundary=edge; charset={charset}".encode()
    body = field("f", b"1", "x") + field("a", b"\xff" * 100) + END
    with pytest.raises(InvalidForm, match="The form cannot be read: Its charset cannot be used"):
        await request(body, [(b"content-type", kind)]).form()


async def test_the_limits_are_the_handlers_choice() -> None:
    body = field("a", b"x" * 2_000_000) + field("f", b"1", "x") + END
    form = await request(body, MULTIPART).form(max_part_size=3_000_000, max_files=1, max_fields=1)
    assert len(str(form["a"])) == 2_000_000
    await form.close()
    for limits in ({"max_files": 0}, {"max_fields": 0}):
        with pytest.raises(InvalidForm, match="Too many"):
            await request(body, MULTIPART).form(max_part_size=3_000_000, **limits)


@pytest.mark.parametrize("ends", ["returns", "raises", "streams"])
async def test_files_are_closed_when_the_answer_is_given_whatever_happens(ends: str) -> None:
    kept: list[UploadFile] = []

    async def pieces(file: UploadFile) -> AsyncIterator[bytes]:
        yield await file.read()

    async def handler(asked: Request) -> object:
        file = (await asked.form())["f"]
        assert isinstance(file, UploadFile)
        kept.append(file)
        if ends == "raises":
            raise ValueError("no")
        return pieces(file) if ends == "streams" else None

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    asked = request(field("f", b"content", "x") + END, MULTIPART)
    try:
        await from_handler(handler, None, 1)(asked.scope, asked.receive, send)
    except ValueError:
        assert ends == "raises"
    assert kept[0].file.closed
    if ends == "streams":
        assert b"".join(message.get("body", b"") for message in sent) == b"content"
