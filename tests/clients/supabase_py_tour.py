"""The tour of supabase-py: reads the world from its input, prints the report.

Runs in the virtual environment of `tests/clients/requirements.lock`, which has nothing of ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import sys
import traceback
import uuid
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import httpx
from supabase_functions.errors import (  # type: ignore[import-not-found]
    FunctionsHttpError,
    FunctionsRelayError,
)
from supabase_functions.utils import FunctionRegion  # type: ignore[import-not-found]

from supabase import (  # type: ignore[attr-defined]  # not the project's folder of this name
    AsyncClientOptions,
    ClientOptions,
    acreate_client,
    create_client,
)

WORLD = json.load(sys.stdin)
STEPS: dict[str, Callable[[], Any]] = {}

supabase = create_client(WORLD["url"], WORLD["anon"])


def step(name: str) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    def remember(take: Callable[[], Any]) -> Callable[[], Any]:
        assert name not in STEPS, f"two steps are called {name!r}"
        STEPS[name] = take
        return take

    return remember


def answered(name: str, client: Any = supabase, **options: Any) -> Any:
    return json.loads(client.functions.invoke(name, options))


@contextlib.contextmanager
def refused(kind: type[Exception], status: int | None = None, *words: str) -> Iterator[None]:
    try:
        yield
    except kind as error:
        told = (getattr(error, "status", None), str(error))
    else:
        raise AssertionError(f"no {kind.__name__}")
    assert told[0] == status, told
    assert all(word in told[1] for word in words), told


@step("a function is called with a body")
def _() -> None:
    assert answered("greet", body={"name": "Functions"}) == {"message": "Hello Functions!"}


@step("an answer is bytes, or JSON when asked for")
def _() -> None:
    raw = supabase.functions.invoke("kinds/json")
    parsed = supabase.functions.invoke("kinds/json", {"responseType": "json"})
    assert json.loads(raw) == parsed == {"list": [1, 2.5, None, True], "text": "naïve 🎤"}
    assert supabase.functions.invoke("kinds/bytes") == bytes(range(256))
    assert supabase.functions.invoke("kinds/text").decode() == "naïve 🎤"
    assert supabase.functions.invoke("kinds/nothing") == b""
    assert supabase.functions.invoke("kinds/gzip") == b"unpacked"


@step("a call is a POST that says who calls")
def _() -> None:
    seen = answered("mirror")
    assert (seen["method"], seen["path"], seen["body"]) == ("POST", "/mirror", "")
    assert seen["headers"]["apikey"] == WORLD["anon"]
    assert seen["headers"]["x-client-info"].startswith("supabase-py")
    assert seen["auth"]["role"] == "anon"


@step("a GET has a path and a query")
def _() -> None:
    seen = answered("mirror/deep/er?word=na%C3%AFve&n=7", method="GET")
    assert (seen["method"], seen["path"]) == ("GET", "/mirror/deep/er")
    assert seen["query"] == {"word": "naïve", "n": "7"}


@step("other methods carry bodies too")
def _() -> None:
    for method in ("PUT", "PATCH", "DELETE", "OPTIONS"):
        seen = answered("mirror", method=method, body={"n": 1})
        assert (seen["method"], json.loads(seen["body"])) == (method, {"n": 1})
    assert supabase.functions.invoke("mirror", {"method": "HEAD"}) == b""


@step("text and bytes are sent with their types")
def _() -> None:
    seen = answered("mirror", body="plain words")
    assert (seen["body"], seen["headers"]["content-type"]) == ("plain words", "text/plain")
    seen = answered("mirror", body=b"\x00\xff")
    assert (seen["body"], seen["headers"]["content-type"]) == ("\x00\xff", "application/octet-stream")
    assert answered("mirror", body=bytes(3_000_000))["body"] == 3_000_000


@step("headers of one's own arrive")
def _() -> None:
    headers = {"x-tour": "yes", "content-type": "text/markdown"}
    seen = answered("mirror", headers=headers, body="# title")["headers"]
    assert (seen["x-tour"], seen["content-type"]) == ("yes", "text/markdown")


@step("a region does no harm")
def _() -> None:
    seen = answered("mirror?n=7", region=FunctionRegion.EuWest1)
    assert seen["headers"]["x-region"] == "eu-west-1"
    assert seen["query"] == {"n": "7", "forceFunctionRegion": "eu-west-1"}


@step("a redirect is followed with the key")
def _() -> None:
    assert answered("kinds/redirect")["text"] == "naïve 🎤"


@step("an error that a function returns is a FunctionsHttpError with its message")
def _() -> None:
    with refused(FunctionsHttpError, 418, "no coffee here"):
        supabase.functions.invoke("fails/teapot")
    with refused(FunctionsHttpError, 503, "try tomorrow"):
        supabase.functions.invoke("fails/unavailable")
    with refused(FunctionsHttpError, 500):
        supabase.functions.invoke("fails")


@step("a function that is not there, or does not start, is a FunctionsRelayError")
def _() -> None:
    with refused(FunctionsRelayError, 404, "NOT_FOUND"):
        supabase.functions.invoke("nowhere")
    with refused(FunctionsRelayError, 503, "BOOT_ERROR"):
        supabase.functions.invoke("broken")


@step("a body that is too large is a FunctionsRelayError")
def _() -> None:
    with refused(FunctionsRelayError, 413, "PAYLOAD_TOO_LARGE"):
        supabase.functions.invoke("small", {"body": bytes(8_000_000)})


@step("a key of another project is a FunctionsRelayError")
def _() -> None:
    with refused(FunctionsRelayError, 401, "UNAUTHORIZED_LEGACY_JWT"):
        create_client(WORLD["url"], WORLD["foreign"]).functions.invoke("mirror")


@step("nobody there is an error of the HTTP client")
def _() -> None:
    with refused(httpx.ConnectError):
        create_client(WORLD["nobody"], WORLD["anon"]).functions.invoke("mirror")


@step("a timeout gives up")
def _() -> None:
    hasty = ClientOptions(httpx_client=httpx.Client(timeout=0.2))
    with refused(httpx.ReadTimeout):
        create_client(WORLD["url"], WORLD["anon"], hasty).functions.invoke("slow")


@step("a publishable key stands for the anonymous role")
def _() -> None:
    seen = answered("mirror", create_client(WORLD["url"], WORLD["publishable"]))
    assert seen["auth"]["role"] == "anon"


@step("a user's token names the user")
def _() -> None:
    functions = create_client(WORLD["url"], WORLD["publishable"]).functions
    functions.set_auth(WORLD["user"])
    claims = functions.invoke("mirror", {"responseType": "json"})["auth"]
    assert (claims["sub"], claims["role"]) == ("user-1", "authenticated")
    options = ClientOptions(headers={"Authorization": f"Bearer {WORLD['user']}"})
    assert answered("mirror", create_client(WORLD["url"], WORLD["anon"], options))["auth"] == claims


@step("the asynchronous client works too")
async def _() -> None:
    client = await acreate_client(WORLD["url"], WORLD["anon"])
    calls = (client.functions.invoke("greet", {"body": {"name": str(n)}}) for n in range(20))
    greetings = [json.loads(answer)["message"] for answer in await asyncio.gather(*calls)]
    assert greetings == [f"Hello {n}!" for n in range(20)]
    with refused(FunctionsRelayError, 404, "NOT_FOUND"):
        await client.functions.invoke("nowhere")


@step("the client under it reads a stream piece by piece")
async def _() -> None:
    async with httpx.AsyncClient() as client:
        options = AsyncClientOptions(httpx_client=client)
        functions = (await acreate_client(WORLD["url"], WORLD["anon"], options)).functions
        run = f"tokens?run={uuid.uuid4()}"
        heard = []
        async with client.stream("GET", f"{functions.url}/{run}", headers=functions.headers) as response:
            async for line in response.aiter_lines():
                if line:
                    heard.append(line)
                    await functions.invoke(run)  # only now is there a next one
    assert heard == ["data: one", "data: two", "data: three 🎤"]


def walk() -> dict[str, str | None]:
    report: dict[str, str | None] = {}
    for name, take in STEPS.items():
        report[name] = None
        try:
            if inspect.iscoroutine(walking := take()):
                asyncio.run(walking)
        except Exception:
            report[name] = traceback.format_exc()
    return report


warnings.simplefilter("ignore")  # the library's own
print(json.dumps(walk()))
