from __future__ import annotations

from typing import Any

import pytest

from runtime import ai
from runtime.ai.llm import headers
from runtime.ai.llm.server import Server
from runtime.frames import ModelCard
from tests.ai.upstream import Call, generated, ndjson, serve


async def answers(call: Call) -> None:
    call.answer(200, ndjson(generated()[-1]))


@pytest.mark.anyio
async def test_a_sessions_headers_go_with_each_of_its_requests_and_no_others() -> None:
    async with serve(answers) as upstream:
        own = ai.Session("m", host=upstream.url, headers={"X-Title": " Harbour\t", "OpenAI-Beta": "v=2"})
        await own.run("hi")
        await own.run("hi")
        await ai.Session("m", host=upstream.url).run("hi")
        first, second, other = (request.headers for request in upstream.requests)
        for sent in (first, second):
            assert (sent["x-title"], sent["openai-beta"]) == ("Harbour", "v=2")
        assert {"x-title", "openai-beta"}.isdisjoint(other)
        assert upstream.connections == 1


@pytest.mark.anyio
async def test_headers_go_to_the_environments_host_too(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve(answers) as upstream:
        monkeypatch.setenv("AI_INFERENCE_API_HOST", upstream.url)
        monkeypatch.setenv("AI_INFERENCE_API_KEY", "sk-environment")
        await ai.Session("m", headers={"x-title": "Harbour"}).run("hi")
        sent = upstream.requests[0].headers
        assert (sent["x-title"], sent["authorization"]) == ("Harbour", "Bearer sk-environment")


@pytest.mark.anyio
async def test_an_authorization_among_them_wins_over_the_key_and_content_type_over_ours() -> None:
    given = {"Authorization": "Token abc-123", "Content-Type": "application/json; charset=utf-8"}
    async with serve(answers) as upstream:
        host = upstream.url.replace("//", "//user:hunter2@")
        await ai.Session("m", host=host, api_key="sk-secret", headers=given).run("hi")
        sent = upstream.requests[0].headers
        assert sent["authorization"] == "Token abc-123"
        assert sent["content-type"] == "application/json; charset=utf-8"


@pytest.mark.anyio
async def test_no_error_shows_their_values() -> None:
    given = {"Authorization": "Bearer sk-secret", "X-Pass": 'say "friend"', "X-Version": "2"}

    async def fails(call: Call) -> None:
        call.answer(403, rb'{"error": "sk-secret, say \"friend\" and say "friend" fail in version 2"}')

    async with serve(fails) as upstream:
        with pytest.raises(ai.UpstreamError) as raised:
            await ai.Session("m", host=upstream.url, headers=given).run("hi")
    assert raised.value.body == '{"error": "***, *** and *** fail in version 2"}'


def test_no_repr_shows_their_values() -> None:
    server = Server.at("http://h", None, "ollama", "host", "api_key").sending({"x-key": "sk-secret"})
    assert repr(server) == "Server('http://h', 'ollama')"
    session = ai.Session("m", host="http://h", headers={"x-key": "sk-secret"})
    assert repr(session) == "Session('m')"


@pytest.mark.parametrize("name", ["", "x y", "x:", "x\n", "hö", b"x", 7])
def test_what_is_no_name_is_refused(name: Any) -> None:
    with pytest.raises(ai.HostNotConfigured, match="is no name of a header"):
        ai.Session("m", host="http://h", headers={name: "x"})


@pytest.mark.parametrize(
    "name", ["Host", "content-length", "Transfer-Encoding", "CONNECTION", "keep-alive", "te", "Upgrade"]
)
def test_a_header_of_the_connection_is_refused(name: str) -> None:
    with pytest.raises(ai.HostNotConfigured, match=f"'{name}', which belongs to the connection"):
        ai.Session("m", host="http://h", headers={name: "x"})


@pytest.mark.parametrize(
    "value", ["se\ncret", "secret\n", "secret\r\nx: y", "se\0cret", "sécret", "se\x7fcret"]
)
def test_what_is_no_value_is_refused_without_being_shown(value: str) -> None:
    with pytest.raises(ai.HostNotConfigured, match=r"^headers\['x-key'\] has characters") as raised:
        ai.Session("m", host="http://h", headers={"x-key": value})
    assert "cret" not in str(raised.value)


@pytest.mark.parametrize("value", [None, 7, b"secret"])
def test_a_value_of_another_kind_is_refused_by_its_kind(value: Any) -> None:
    with pytest.raises(ai.HostNotConfigured, match=f"is {type(value).__name__}: give a string") as raised:
        ai.Session("m", host="http://h", headers={"x-key": value})
    assert "secret" not in str(raised.value)


def test_what_is_no_mapping_is_refused() -> None:
    listed: Any = [("x-key", "secret")]
    with pytest.raises(ai.HostNotConfigured, match="headers is list: give a mapping"):
        ai.Session("m", host="http://h", headers=listed)


def test_a_name_that_comes_twice_is_refused() -> None:
    with pytest.raises(ai.HostNotConfigured, match="'x-key' twice"):
        headers.checked({"X-Key": "a", "x-key": "b"})


def test_values_may_have_every_character_that_a_header_can_carry() -> None:
    every = "".join(map(chr, range(0x21, 0x7F)))
    given = {"x": f"{every} \t{every}", "empty": ""}
    assert headers.checked(given) == given


def test_a_local_model_has_no_use_for_them() -> None:
    from runtime.ai import host

    host.install([ModelCard("gte-small", 384, 512)])
    assert ai.Session("gte-small", headers={"x-key": "secret"}).model == "gte-small"
