"""What the README promises a newcomer, with the README's own lines and the examples of the repository."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.ollama import Ollama
from tests.running import Server, serving

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text()


@pytest.fixture(scope="module")
def ollama() -> Iterator[Ollama]:
    with Ollama() as server:
        yield server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, ollama: Ollama) -> Iterator[Server]:
    """The repository's functions and settings, as `make serve` finds them after its preparations."""
    root = tmp_path_factory.mktemp("newcomer")
    shutil.copytree(
        REPOSITORY / "functions", root / "functions", ignore=shutil.ignore_patterns("__pycache__")
    )
    (root / "supabase" / "functions").mkdir(parents=True)
    shutil.copy(REPOSITORY / "supabase" / "config.toml", root / "supabase")
    example = (REPOSITORY / "supabase" / "functions" / ".env.example").read_text()
    env_file = root / "supabase" / "functions" / ".env"
    env_file.write_text(example.replace("http://localhost:11434", ollama.url))
    data = {"XDG_DATA_HOME": str(root / "data")}
    subprocess.run(
        [sys.executable, "-m", "runtime.cli.main", "models", "prepare", "--env-file", str(env_file)],
        env={"PATH": os.environ["PATH"], "HOME": str(root), "HF_HUB_OFFLINE": "1"} | data,
        cwd=root,
        check=True,
    )
    with serving(root, env=data) as server:
        yield server


def readme_line(server: Server, name: str) -> str:
    """The README's curl line for a function, at this server's port."""
    (line,) = re.findall(rf"^curl .*/functions/v1/{name} .*$", README, re.MULTILINE)
    port = server.url.rsplit(":", 1)[1]
    return str(line).replace("localhost:54321", f"localhost:{port}")


def shell(server: Server, line: str) -> subprocess.Popen[bytes]:
    """Run a line in a shell that has the keys, as after `eval "$(functions keys)"`."""
    environ = {"PATH": "/usr/local/bin:/usr/bin:/bin", "ANON_KEY": server.token()}
    return subprocess.Popen(
        line.replace("curl ", "curl -sSN ", 1), shell=True, env=environ, stdout=subprocess.PIPE
    )


def output(server: Server, line: str) -> bytes:
    process = shell(server, line)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    return out


def test_the_hello_line_runs_as_printed(server: Server) -> None:
    assert output(server, readme_line(server, "hello")) == b'{"message":"Hello Functions!"}'


def test_the_banner_prints_a_line_that_runs_when_pasted(server: Server) -> None:
    (line,) = re.findall(r"^  (curl .*)$", server.log, re.MULTILINE)
    assert output(server, line) == b'{"message":"Hello Functions!"}'


def test_the_embed_line_gives_a_unit_vector_of_real_weights(server: Server) -> None:
    vector = json.loads(output(server, readme_line(server, "embed")))
    assert len(vector) == 384
    assert math.isclose(math.hypot(*vector), 1.0, abs_tol=1e-5)


def test_embed_takes_one_text_or_several_by_post(server: Server) -> None:
    with server.client() as client:
        one = client.post("/embed", json={"input": "Luke, I am your father"}).json()
        several = client.post("/embed", json={"input": ["Luke, I am your father", "No!"]}).json()
    assert len(one) == 384
    assert [len(vector) for vector in several] == [384, 384]
    assert sum(a * b for a, b in zip(one, several[0], strict=True)) > 0.99999


def test_the_ollama_line_prints_tokens_one_by_one(server: Server, ollama: Ollama) -> None:
    with shell(server, readme_line(server, "ollama-test")) as process:
        assert process.stdout is not None
        for word in (b"Yo ", b"Postgres ", "🎤".encode()):
            ollama.allow()  # the next token exists only once the one before was read
            assert process.stdout.read(len(word)) == word
        assert process.stdout.read() == b""
    assert process.returncode == 0
    assert ollama.bodies[-1]["prompt"] == "write a short rap song"
    assert ollama.bodies[-1]["stream"] is True


def test_the_stream_example_sends_events(server: Server) -> None:
    with server.client() as client:
        response = client.get("/stream", params={"n": 2, "interval": 0})
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.text.count("event: tick") == 2


def test_functions_keys_prints_lines_for_eval(server: Server) -> None:
    line = f'eval "$(functions keys --root {server.root})" && echo "$ANON_KEY"'
    environ = {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "HOME": str(server.root),
    }
    key = subprocess.run(
        line, shell=True, env=environ, capture_output=True, text=True, check=True
    ).stdout.strip()
    assert key.count(".") == 2
