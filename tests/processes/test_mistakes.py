"""A mistake in a file costs what it concerns, and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.running import HELLO, body, descendants, eventually, project, serving

OTHER = "async def handler(request):\n    return 'fine'\n"


def test_a_broken_env_file_of_one_function_stops_that_one_alone(tmp_path: Path) -> None:
    project(tmp_path, {"hello": HELLO, "other": OTHER})
    (tmp_path / "functions" / "hello" / ".env").write_text('FOO="unclosed\n')
    with serving(tmp_path) as server, server.client() as client:
        assert client.get("/other").text == "fine"
        refused = client.post("/hello", json={"name": "x"})
        assert (refused.status_code, body(refused)["code"]) == (503, "BOOT_ERROR")
        assert str(tmp_path / "functions" / "hello" / ".env") in server.log
        (tmp_path / "functions" / "hello" / ".env").write_text("FOO=closed\n")
        eventually(lambda: client.post("/hello", json={"name": "x"}).status_code == 200, "hello to serve")


def test_a_new_gateway_serves_the_last_good_configuration(tmp_path: Path) -> None:
    project(tmp_path, {"other": OTHER}, "[ai]\npreload = []\n[functions.other]\nverify_jwt = false\n")
    with serving(tmp_path) as server, server.client() as client:
        with (tmp_path / "supabase" / "config.toml").open("a") as config:
            config.write("oops = [\n")
        server.wait_for_log("the previous configuration stays in force")
        os.kill(server.pid_of("fn-gateway"), signal.SIGKILL)
        server.wait_for_log("the gateway is back")
        assert client.get("/other").text == "fine"
        server.wait_for_log("the previous configuration stays in force", 2)
        assert server.process.poll() is None


def test_functions_are_not_served_when_the_runtime_is_switched_off(tmp_path: Path) -> None:
    project(tmp_path, {"other": OTHER}, "[edge_runtime]\nenabled = false\n[ai]\npreload = []\n")
    with serving(tmp_path) as server, server.client() as client:
        assert body(client.get("/other"))["code"] == "NOT_FOUND"


def test_more_variables_than_fit_are_refused_by_name(tmp_path: Path) -> None:
    project(tmp_path, {"other": OTHER})
    env_file = tmp_path / "supabase" / "functions" / ".env"
    env_file.write_text("\n".join(f"V{number}={'x' * 1000}" for number in range(600)))
    with serving(tmp_path) as server, server.client() as client:
        assert body(client.get("/other"))["code"] == "BOOT_ERROR"
        assert f"{env_file}: the variables of other take" in server.log


def test_a_variable_of_the_shell_that_is_no_text_is_let_be(tmp_path: Path) -> None:
    project(tmp_path, {"other": OTHER})
    with (
        serving(tmp_path, env={"FOO": os.fsdecode(b"\xff"), "BIG": "x" * 100_000}) as server,
        server.client() as client,
    ):
        assert client.get("/other").text == "fine"


def test_the_server_lives_on_when_nobody_reads_what_it_says(tmp_path: Path) -> None:
    root = str(project(tmp_path, {"other": OTHER}))
    reader, writer = os.pipe()
    command = [sys.executable, "-m", "runtime.cli.main", "serve", "--port", "0", "--root", root]
    process = subprocess.Popen(command, stdout=writer, stderr=writer)
    os.close(writer)
    try:
        said = b""
        while b"/other" not in said:
            said += os.read(reader, 4096)
        os.close(reader)
        engine = engine_of(process.pid)
        os.kill(engine, signal.SIGKILL)
        eventually(lambda: engine_of(process.pid) not in (0, engine), "another engine")
        assert process.poll() is None
    finally:
        process.terminate()
        assert process.wait(20) == 0


def engine_of(pid: int) -> int:
    """The engine's pid; 0 while there is none."""
    return next((child for child, name in descendants(pid).items() if name == "fn-engine"), 0)
