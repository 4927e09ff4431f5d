"""Every example does what its comment says, with the very lines of that comment."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from runtime.engine.models.catalogue import EMBEDDED
from runtime.engine.models.prepare import prepare
from runtime.engine.models.pull import pull_folder
from runtime.engine.models.store import Store
from tests.conformance.ollama import Ollama
from tests.engine.test_engine_process import counting_ranker
from tests.running import SECRET, Server, eventually, serving

REPOSITORY = Path(__file__).parents[2]
EXAMPLES = sorted(path.parent.name for path in REPOSITORY.glob("functions/*/index.py"))
WIDTH = 100
RANKER = "ms-marco-minilm-l6-v2"
PATH = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"

Message = dict[str, str]


def scripts(name: str) -> list[str]:
    """The shell lines of an example's comment, those that stand together as one script."""
    source = (REPOSITORY / "functions" / name / "index.py").read_text()
    blocks = re.findall(r"^(?:#   .*\n)+", source, re.MULTILINE)
    return [re.sub("^#   ", "", block, flags=re.MULTILINE) for block in blocks]


def bash(script: str, **environ: str) -> str:
    """What a script prints; every command of it must succeed."""
    script = re.sub(r"\bcurl ", "curl -sS ", script)
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        env={"PATH": PATH, **environ},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, f"{script}\n{ran.stdout}\n{ran.stderr}"
    return ran.stdout


@pytest.fixture(scope="module")
def ollama() -> Iterator[Ollama]:
    with Ollama() as server:
        yield server


@pytest.fixture(scope="module")
def secret() -> str:
    """A webhook secret, made as the example says."""
    return bash(scripts("webhook")[0]).strip()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, ollama: Ollama, secret: str) -> Iterator[Server]:
    """The repository's own functions and settings."""
    root = tmp_path_factory.mktemp("examples")
    shutil.copytree(
        REPOSITORY / "functions", root / "functions", ignore=shutil.ignore_patterns("__pycache__")
    )
    (root / "supabase" / "functions").mkdir(parents=True)
    shutil.copy(REPOSITORY / "supabase" / "config.toml", root / "supabase")
    values = (REPOSITORY / "supabase" / "functions" / ".env.example").read_text()
    values = re.sub("^EMBEDDING_MODEL=.*$", f"EMBEDDING_MODEL={EMBEDDED}", values, flags=re.MULTILINE)
    values = values.replace("http://localhost:11434", ollama.url)
    values = values.replace("WEBHOOK_SECRET=", f"WEBHOOK_SECRET={secret}")
    (root / "supabase" / "functions" / ".env").write_text(values)
    store = Store(root / "data" / "functions" / "models")
    prepare(EMBEDDED, store)
    pull_folder(counting_ranker(root / "ranker"), RANKER, store, lambda *_: None)
    with serving(root, env={"XDG_DATA_HOME": str(root / "data")}) as running:
        yield running


def run(server: Server, script: str, **environ: str) -> str:
    """Run a script of a comment against this server, with the keys in the environment."""
    address = server.url.removeprefix("http://").replace("127.0.0.1", "localhost")
    return bash(script.replace("localhost:54321", address), ANON_KEY=server.token(), **environ)


def invoke(server: Server, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`functions invoke …`, as a person types it beside the running server."""
    command = [sys.executable, "-m", "runtime.cli.main", "invoke", *arguments]
    port = server.url.rsplit(":", 1)[1]
    return subprocess.run(
        [*command, "--port", port, "--root", str(server.root)],
        env={"PATH": PATH, "JWT_SECRET": SECRET},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


# --- the list -------------------------------------------------------------------------------


def test_the_list_has_one_line_for_each_that_fits_a_terminal() -> None:
    command = [sys.executable, "-m", "runtime.cli.main", "list"]
    listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    assert [line.split()[0] for line in listed.splitlines()] == EXAMPLES
    for line in listed.splitlines():
        assert len(line) <= WIDTH
        assert line.endswith(".")  # the whole sentence


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_begins_with_a_sentence_and_the_lines_that_call_it(name: str) -> None:
    source = (REPOSITORY / "functions" / name / "index.py").read_text()
    assert re.match(r'"""[A-Z][^\n]*\."""\n\n# ', source)
    assert f"localhost:54321/functions/v1/{name}" in "".join(scripts(name))


# --- the first four -------------------------------------------------------------------------


def test_hello(server: Server) -> None:
    assert json.loads(run(server, scripts("hello")[0])) == {"message": "Hello Functions!"}


def test_embed(server: Server) -> None:
    one, two = run(server, scripts("embed")[0]).replace("][", "]\n[", 1).splitlines()
    assert len(json.loads(one)) == 384
    assert [len(vector) for vector in json.loads(two)] == [384, 384]


def test_rerank(server: Server) -> None:
    (best,) = json.loads(run(server, scripts("rerank")[0]))
    assert best["document"] == "The weather is nice."  # of this ranker, who counts: the longer one
    assert best["index"] == 1


def test_ollama_test(server: Server, ollama: Ollama) -> None:
    ollama.allow(3)
    assert run(server, scripts("ollama-test")[0]) == "Yo Postgres 🎤"


def test_stream(server: Server) -> None:
    printed = run(server, scripts("stream")[0].replace("interval=0.5", "interval=0"))
    assert printed.count("event: tick\n") == 5


# --- echo -----------------------------------------------------------------------------------


def test_echo_returns_what_is_typed_into_the_websockets_client(server: Server) -> None:
    address = server.url.removeprefix("http://")
    line = scripts("echo")[0].replace("localhost:54321", address)
    with subprocess.Popen(
        ["bash", "-c", line],
        env={"PATH": PATH, "ANON_KEY": server.token()},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        for text in ("hello", "Grüße 🎤"):
            client.stdin.write(text + "\n")
            client.stdin.flush()
            while f"< {text}" not in (shown := client.stdout.readline()):
                assert shown, "the client ended"
        client.stdin.close()
        assert "Connection closed: 1000 (OK)" in client.stdout.read()
    assert client.returncode == 0


def test_echo_tells_a_plain_get_how_to_connect(server: Server) -> None:
    assert "Open a WebSocket" in run(server, scripts("echo")[1])


# --- chat -----------------------------------------------------------------------------------


def test_chat_streams_events_up_to_done(server: Server, ollama: Ollama) -> None:
    ollama.allow(3)
    *events, done, end = run(server, scripts("chat")[0]).split("\n\n")
    said = [json.loads(event.removeprefix("data: "))["message"]["content"] for event in events]
    assert (said, done, end) == (["Yo ", "Postgres ", "🎤", ""], "data: [DONE]", "")
    asked = ollama.bodies[-1]
    assert asked["model"] == "mistral"
    assert asked["messages"] == [{"role": "user", "content": "Why is the sky blue?"}]


@pytest.mark.parametrize(
    "body",
    [
        [],
        {},
        {"messages": []},
        {"messages": "hello"},
        {"messages": ["hello"]},
        {"messages": [{"role": "user"}]},
        {"messages": [{"role": "user", "content": 1}]},
        {"messages": [{"role": "tool", "content": "rm"}]},
    ],
)
def test_chat_says_what_it_takes(server: Server, body: object) -> None:
    with server.client() as client:
        response = client.post("/chat", json=body)
    assert response.status_code == 400
    assert "role" in response.json()["message"]


def test_chat_hands_on_a_role_and_a_content_and_nothing_else(server: Server, ollama: Ollama) -> None:
    ollama.allow(3)
    with server.client() as client:
        sent = {"role": "user", "content": "look", "images": ["…"]}
        client.post("/chat", json={"messages": [sent], "model": "other"})
    assert ollama.bodies[-1]["messages"] == [{"role": "user", "content": "look"}]
    assert ollama.bodies[-1]["model"] == "mistral"


@pytest.mark.parametrize("name", sorted(set(EXAMPLES) - {"chat-page", "webhook"}))
def test_only_the_page_and_the_webhook_need_no_key(server: Server, name: str) -> None:
    assert httpx2.get(f"{server.functions}/{name}").status_code == 401


# --- chat-page ------------------------------------------------------------------------------


def test_chat_page_carries_the_anon_key_and_runs_nothing_but_itself(server: Server) -> None:
    page = run(server, scripts("chat-page")[0])
    assert f'<meta name="anon-key" content="{server.token()}">' in page
    assert "{{" not in page
    policy = httpx2.get(f"{server.functions}/chat-page").headers["content-security-policy"]
    (nonce,) = set(re.findall(r"'nonce-([^']{20,})'", policy))
    assert nonce not in page  # each response has its own
    assert policy.startswith("default-src 'none';")
    assert re.findall(r'(?:src|href)="([^"]*)"', page) == ["data:,"]  # the icon that it does without
    assert not re.search(r"url\(|@import|\son\w+=|\sstyle=", page)


# --- tasks ----------------------------------------------------------------------------------


def test_tasks(server: Server) -> None:
    shown = run(server, scripts("tasks")[0])
    task = {"title": "Water the plants", "id": 2, "done": False}
    made, listed, changed = _values(shown)
    assert made == task
    assert listed[1] == task
    assert changed == {**task, "done": True}
    with server.client() as client:
        assert client.get("/tasks/2").status_code == 404


def test_tasks_describes_itself_below_its_own_address(server: Server) -> None:
    with server.client() as client:
        page = client.get("/tasks/docs")
        (described,) = re.findall(r"url: '([^']+)'", page.text)
        assert described == "/functions/v1/tasks/openapi.json"
        schema = client.get(f"{server.url}{described}").json()
    assert schema["servers"] == [{"url": "/functions/v1/tasks"}]
    assert set(schema["paths"]) == {"/", "/{number}"}


def test_tasks_refuses_what_is_no_task(server: Server) -> None:
    with server.client() as client:
        assert client.post("/tasks", json={"title": ""}).status_code == 422
        assert client.get("/tasks/no-number").status_code == 422


def _values(text: str) -> list[Any]:
    """JSON values that follow one another."""
    decoder, values = json.JSONDecoder(), []
    while text:
        value, end = decoder.raw_decode(text)
        values.append(value)
        text = text[end:].lstrip()
    return values


# --- upload ---------------------------------------------------------------------------------


def test_upload_describes_files_and_a_large_body(server: Server) -> None:
    files, body = _values(run(server, scripts("upload")[0]) + run(server, scripts("upload")[1]))
    for name, file in zip(("README.md", "LICENSE"), files, strict=True):
        content = (REPOSITORY / name).read_bytes()
        assert file == {
            "name": name,
            "size": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
    assert body == {"size": 100_000_000, "sha256": hashlib.sha256(bytes(100_000_000)).hexdigest()}


def test_upload_says_what_it_takes(server: Server) -> None:
    with server.client() as client:
        for form in ({"data": {"file": "text"}}, {"content": b"bare"}):
            response = client.post("/upload", **form)
            assert response.status_code == 400
            assert "form with files" in response.json()["message"]


# --- background -----------------------------------------------------------------------------


def test_background_answers_at_once_and_works_on(server: Server) -> None:
    job = json.loads(run(server, scripts("background")[0]))
    assert (job["status"], job["progress"]) == ("running", 0)
    look = scripts("background")[1]

    def finished() -> bool:
        seen = json.loads(run(server, look, ID=job["id"]))
        return bool(seen["id"] == job["id"] and seen["status"] == "done" and seen["progress"] == 1)

    eventually(finished, "the work's end")


def test_background_knows_only_what_it_began(server: Server) -> None:
    with server.client() as client:
        assert client.post("/background").status_code == 202
        for method, path in (("GET", ""), ("GET", f"/{uuid.uuid4()}"), ("POST", "/1"), ("DELETE", "")):
            assert client.request(method, f"/background{path}").status_code == 404


# --- webhook --------------------------------------------------------------------------------


def send(
    server: Server, secret: str, id: str, *, age: int = 0, body: str = '{"type": "sent"}', extra: str = ""
) -> httpx2.Response:
    """A message signed as the specification says, not as the example does it."""
    timestamp = str(int(time.time()) - age)
    key = base64.b64decode(secret.removeprefix("whsec_"))
    mac = hmac.new(key, f"{id}.{timestamp}.{body}".encode(), hashlib.sha256)
    headers = {
        "webhook-id": id,
        "webhook-timestamp": timestamp,
        "webhook-signature": extra + "v1," + base64.b64encode(mac.digest()).decode(),
    }
    return httpx2.post(f"{server.functions}/webhook", content=body, headers=headers)


def test_webhook_takes_what_openssl_and_curl_sign(server: Server, secret: str) -> None:
    before = server.log.count("received user.created")
    assert json.loads(run(server, scripts("webhook")[1], WEBHOOK_SECRET=secret)) == {"status": "done"}
    server.wait_for_log("received user.created", before + 1)


def test_webhook_does_a_repeated_message_once(server: Server, secret: str) -> None:
    answers = [send(server, secret, "msg_twice", body='{"type": "twice"}') for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert [answer.json()["status"] for answer in answers] == ["done", "done before"]
    assert send(server, secret, "msg_after", body='{"type": "after"}').status_code == 200
    server.wait_for_log("received after")
    assert server.log.count("received twice") == 1


def test_webhook_lets_a_message_that_failed_come_again(server: Server, secret: str) -> None:
    assert send(server, secret, "msg_broken", body="{").status_code == 400
    assert send(server, secret, "msg_broken").json() == {"status": "done"}


def test_webhook_takes_one_good_signature_among_several(server: Server, secret: str) -> None:
    assert send(server, secret, "msg_several", extra="v1a,abc v1,bm8= ").json() == {"status": "done"}


@pytest.mark.parametrize("age", [301 + 5, -301 - 5])
def test_webhook_refuses_what_is_not_fresh(server: Server, secret: str, age: int) -> None:
    response = send(server, secret, "msg_stale", age=age)
    assert response.status_code == 401
    assert "webhook-timestamp" in response.json()["message"]


def test_webhook_refuses_a_signature_of_another_secret(server: Server) -> None:
    other = "whsec_" + base64.b64encode(bytes(32)).decode()
    response = send(server, other, "msg_forged")
    assert response.status_code == 401
    assert "signature" in response.json()["message"]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"webhook-id": "1", "webhook-timestamp": "now", "webhook-signature": "v1,bm8="},
        {"webhook-id": "1", "webhook-timestamp": "1"},
    ],
)
def test_webhook_without_its_headers_says_which(server: Server, headers: Message) -> None:
    response = httpx2.post(f"{server.functions}/webhook", content=b"{}", headers=headers)
    assert response.status_code == 400
    assert "webhook-signature" in response.json()["message"]


# --- functions invoke -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("hello", "-d", '{"name":"Functions"}'), "Hello Functions!"),
        (("stream", "-q", "n=2", "-q", "interval=0"), "2 of 2"),
        (("chat", "-d", '{"messages": [{"role": "user", "content": "Hi"}]}'), "data: [DONE]"),
        (("chat-page", "--role", "none"), "<!doctype html>"),
        (("tasks", "-d", '{"title": "Sleep"}'), '"title":"Sleep"'),
        (("upload", "-X", "PUT", "-d", "bare"), '"size":4'),
        (("background", "-X", "POST"), '"status":"running"'),
    ],
)
def test_invoke_calls_them_too(server: Server, ollama: Ollama, arguments: tuple[str, ...], said: str) -> None:
    if "chat" in arguments:
        ollama.allow(3)
    invoked = invoke(server, *arguments)
    assert (invoked.returncode, invoked.stderr) == (0, "")
    assert said in invoked.stdout


def test_invoke_shows_why_echo_takes_no_plain_request(server: Server) -> None:
    invoked = invoke(server, "echo")
    assert invoked.returncode == 1
    assert "426" in invoked.stderr
    assert "Open a WebSocket" in invoked.stderr
