from __future__ import annotations

import pytest

from runtime import ai
from runtime.ai.llm.server import Server


def find(host: str = "http://h:1", *, key: str | None = None, **environ: str) -> Server:
    server = Server.find({"AI_INFERENCE_API_HOST": host, **environ}, None, key, None)
    assert server is not None
    return server


def test_without_a_host_there_is_no_server() -> None:
    assert Server.find({}, None, None, None) is None
    assert Server.find({"AI_INFERENCE_API_HOST": ""}, None, None, None) is None


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("http://localhost:11434", "http://localhost:11434"),
        ("http://localhost:11434/", "http://localhost:11434"),
        ("https://gw.example/openai/", "https://gw.example/openai"),
        (" http://[::1]:8080/base \n", "http://[::1]:8080/base"),
        ("HTTP://Host", "http://host"),
    ],
)
def test_the_base_path_is_kept(given: str, url: str) -> None:
    assert find(given).url == url


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("localhost:11434", "does not start with http"),
        ("ftp://host", "does not start with http"),
        ("http://", "names no host"),
        ("http://h:port", "is no URL"),
        ("http://h:99999", "is no URL"),
        ("http://[::1", "is no URL"),
        ("http://a b", "characters"),
        ("http://hö.st", "characters"),
        ("http://h?key=1", "query"),
        ("http://h#x", "fragment"),
    ],
)
def test_a_host_that_is_no_url_is_refused_by_variable_value_and_reason(host: str, why: str) -> None:
    with pytest.raises(
        ai.HostNotConfigured, match=f"^AI_INFERENCE_API_HOST is .*{why}.*http://localhost:11434$"
    ) as raised:
        find(host)
    assert host in str(raised.value)


def test_a_refused_host_shows_no_credentials() -> None:
    with pytest.raises(ai.HostNotConfigured) as raised:
        find("user:hunter2@host:80")
    assert "hunter2" not in str(raised.value)
    assert "@host:80" in str(raised.value)


def test_the_key_becomes_a_bearer_header_and_no_text_shows_it() -> None:
    server = find(AI_INFERENCE_API_KEY=" sk-secret\n")
    assert server.authorization == "Bearer sk-secret"
    assert "sk-secret" not in repr(server)
    assert server.clean("no such key: sk-secret!") == "no such key: ***!"


def test_a_session_shows_neither_key_nor_host() -> None:
    assert repr(ai.Session("m", host="http://u:hunter2@h", api_key="sk-secret")) == "Session('m')"


def test_credentials_in_the_url_become_a_basic_header_and_leave_the_url() -> None:
    server = find("http://us%40er:hunter2@h:1/base")
    assert server.url == "http://h:1/base"
    assert server.authorization == "Basic dXNAZXI6aHVudGVyMg=="
    assert server.clean("hunter2 dXNAZXI6aHVudGVyMg==") == "*** ***"
    assert find("http://user:hunter2@h", key="k").authorization == "Bearer k"


def test_a_key_that_no_header_can_carry_is_refused_without_being_shown() -> None:
    for key in ("sk-\nsecret", "sk-sécret"):
        with pytest.raises(ai.HostNotConfigured, match=r"^AI_INFERENCE_API_KEY has characters") as raised:
            find(AI_INFERENCE_API_KEY=key)
        assert "cret" not in str(raised.value)


def test_the_environments_key_and_mode_do_not_go_to_another_host() -> None:
    environ = {
        "AI_INFERENCE_API_HOST": "http://h",
        "AI_INFERENCE_API_KEY": "sk-secret",
        "AI_INFERENCE_API_MODE": "openaicompatible",
    }
    other = Server.find(environ, "http://other", None, None)
    assert other is not None
    assert (other.url, other.authorization, other.mode, other.secrets) == ("http://other", "", "ollama", ())


def test_the_mode_comes_from_the_argument_then_the_environment_then_is_ollama() -> None:
    environ = {"AI_INFERENCE_API_HOST": "http://h"}
    assert find().mode == "ollama"
    assert find(AI_INFERENCE_API_MODE="openaicompatible").mode == "openaicompatible"
    chosen = Server.find({**environ, "AI_INFERENCE_API_MODE": "openaicompatible"}, None, None, "ollama")
    assert chosen is not None
    assert chosen.mode == "ollama"


def test_an_unknown_mode_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        ai.InvalidMode, match=r'^AI_INFERENCE_API_MODE: invalid mode .olama.: use "ollama" or "openaicomp'
    ):
        find(AI_INFERENCE_API_MODE="olama")
    with pytest.raises(ai.InvalidMode, match=r"^invalid mode"):
        Server.find({}, "http://h", None, "olama")


def test_a_long_text_of_the_servers_is_cut() -> None:
    assert find().clean("x" * 5000) == "x" * 2048 + "…"


def test_a_text_that_was_cut_amid_a_secret_shows_no_part_of_it() -> None:
    server = find(AI_INFERENCE_API_KEY="sk-secret")
    assert server.clean("no such key: sk-sec") == "no such key: ***"
    assert server.clean("models") == "models"


def test_a_secret_within_another_leaves_nothing_of_it() -> None:
    server = find("http://user:secret@h", key="sk-secret-of-mine")
    assert server.clean("sk-secret-of-mine and secret") == "*** and ***"
