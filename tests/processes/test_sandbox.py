"""`sandbox = "landlock"`: what a function in it sees of the disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.worker import landlock
from tests.running import Server, project, serving

PEEK = """
import subprocess, sys, tempfile
from pathlib import Path

def read(path):
    try:
        return Path(path).read_text()
    except OSError as error:
        return type(error).__name__

async def handler(request):
    match request.url.path.rpartition("/")[2]:
        case "own":
            path = Path(tempfile.gettempdir(), "own")
            path.write_text("kept")
            return path.read_text()
        case "beside":
            return Path(__file__).with_name("page.html").read_text()
        case "child":
            command = ["cat", request.query_params["path"]]
            return subprocess.run(command, capture_output=True, text=True).stdout
    return read(request.query_params["path"])
"""
CONFIG = """
[ai]
preload = []
[edge_runtime.defaults]
sandbox = "landlock"
[functions.open]
sandbox = "off"
"""

pytestmark = pytest.mark.skipif(landlock.version() < 1, reason="this kernel has no Landlock")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    functions = {"shut": PEEK, "shut/page.html": "a page", "open": PEEK}
    with serving(project(tmp_path_factory.mktemp("sandbox"), functions, CONFIG)) as server:
        yield server


@pytest.fixture
def outside() -> Iterator[Path]:
    """A file that everybody may read."""
    path = Path("/tmp", "outside-of-a-sandbox")
    path.write_text("for all")
    path.chmod(0o644)
    yield path
    path.unlink()


def test_only_a_function_outside_of_it_sees_other_files(server: Server, outside: Path) -> None:
    with server.client() as client:
        where = {"path": str(outside)}
        assert client.get("/open", params=where).text == "for all"
        assert client.get("/shut", params=where).text == "PermissionError"
        assert client.get("/shut", params={"path": "/etc/passwd"}).text.startswith("root:")


def test_what_it_starts_is_in_it_too(server: Server, outside: Path) -> None:
    with server.client() as client:
        assert client.get("/open/child", params={"path": str(outside)}).text == "for all"
        assert client.get("/shut/child", params={"path": str(outside)}).text == ""
        assert client.get("/shut/child", params={"path": "/etc/passwd"}).text.startswith("root:")


def test_its_own_folder_and_the_files_beside_it_are_there(server: Server) -> None:
    with server.client() as client:
        assert client.get("/shut/own").text == "kept"
        assert client.get("/shut/beside").text == "a page"
