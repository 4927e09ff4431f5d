"""Pulls that are killed, stopped or many at once; and stores that nobody can write to."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.engine.models.patience import Patience
from runtime.engine.models.store import Store
from runtime.errors import HubError
from tests.engine import tiny
from tests.hub.conftest import WEIGHTS, contents
from tests.hub.pulling import listed, pulled, sound
from tests.hub.standin import StandIn
from tests.processes.users import User
from tests.running import eventually, project, serving

REPOSITORY = Path(__file__).parents[2]
NAME, FOLDER, PARTIAL, SCRATCH = "org/tiny", "org--tiny", ".org--tiny.partial", ".org--tiny.tmp"


# --- kills -----------------------------------------------------------------------------------


PULL = """
import sys
from runtime.engine.models.store import Store
from tests.hub.pulling import pulled

pulled(Store(sys.argv[1], {}), sys.argv[2])
"""


def start(store: Store, hub: StandIn) -> subprocess.Popen[bytes]:
    """A pull in a process of its own."""
    environ = {"PATH": os.environ["PATH"], "HOME": str(store.models_dir.parent), "HF_ENDPOINT": hub.url}
    command = [sys.executable, "-c", PULL, str(store.models_dir), NAME]
    return subprocess.Popen(command, env=environ, cwd=REPOSITORY)


def kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait(30)


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_a_pull_that_is_killed_at_twenty_points_goes_on_where_it_was(
    hub: StandIn, tmp_path: Path, weights: dict[str, bytes]
) -> None:
    store = Store(tmp_path / "models", {})
    needed = sum(len(weights[name]) for name in ("tokenizer.json", "config.json", WEIGHTS))
    points = sorted(random.Random(20).sample(range(needed), 20))
    for point in points:
        hub.hold_after(max(point - size_of(store.models_dir / PARTIAL), 0))
        process = start(store, hub)
        eventually(hub.holding, f"{point} bytes to be served")
        kill(process)
        hub.go_on()
        eventually(lambda: not hub.holding(), "the hub to notice")
        assert sound(store) == []
        assert listed(store) == [PARTIAL]
    assert start(store, hub).wait(30) == 0
    assert sound(store) == [NAME]
    assert listed(store) == [FOLDER]
    assert hub.served < 2 * needed  # from the start each time it would be ten times as much


@pytest.mark.parametrize(
    "sight", [SCRATCH, f"{SCRATCH}/model.onnx.data", f"{SCRATCH}/model.onnx", f"{SCRATCH}/card.json", FOLDER]
)
def test_a_pull_that_is_killed_after_its_download_leaves_a_whole_model_or_none(
    hub: StandIn, tmp_path: Path, sight: str
) -> None:
    store = Store(tmp_path / "models", {})
    process = start(store, hub)
    # On a busy machine the sight may be gone before anybody looks; then the end will do.
    places = store.models_dir / sight, store.models_dir / FOLDER
    eventually(lambda: any(place.exists() for place in places), sight)
    kill(process)
    assert sound(store) in ([], [NAME])
    assert start(store, hub).wait(30) == 0
    assert sound(store) == [NAME]
    assert listed(store) == [FOLDER]
    assert len(hub.downloads(WEIGHTS)) == 1


KILLED_AT_THE_END = """
import os, signal, sys
from runtime.engine.models import prepare
from runtime.engine.models.store import Store
from tests.hub.pulling import pulled

replace = prepare._replace

def replace_and_die(target, made):
    replace(target, made)
    os.kill(os.getpid(), signal.SIGKILL)

prepare._replace = replace_and_die
pulled(Store(sys.argv[1], {}), sys.argv[2])
"""


@pytest.mark.parametrize("ranges", [True, False])
def test_what_a_killed_pull_shares_with_the_model_is_not_written_to_by_the_next(
    hub: StandIn, tmp_path: Path, graph: dict[str, bytes], ranges: bool
) -> None:
    """The downloaded files and those of the model are the same ones on disk, until the first are deleted."""
    store, data = Store(tmp_path / "models", {}), "onnx/model.onnx.data"
    hub.put(NAME, graph)
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "HF_ENDPOINT": hub.url}
    command = [sys.executable, "-c", KILLED_AT_THE_END, str(store.models_dir), NAME]
    assert subprocess.run(command, env=environ, cwd=REPOSITORY, timeout=60).returncode == -signal.SIGKILL
    assert listed(store) == [PARTIAL, FOLDER]
    card = store.get(NAME)
    hub.put(NAME, graph | {data: graph[data] + bytes(4096)}, "v2")
    hub.misbehave(on=data, stop=100, ranges=ranges)
    with pytest.raises(HubError):
        pulled(store, f"{NAME}@v2", patience=Patience(attempts=1))
    assert sound(store) == [NAME]
    assert store.get(NAME) == card
    hub.faults.clear()
    assert pulled(store, f"{NAME}@v2").revision != card.revision
    assert sound(store) == [NAME]
    assert listed(store) == [FOLDER]


# --- other processes -------------------------------------------------------------------------


class Terminal:
    """`functions models …` in processes of their own."""

    def __init__(self, data: Path, hub: StandIn) -> None:
        self._data, self._hub = data, hub
        self.store = Store(data / "functions" / "models", {})
        self._processes: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        environ = {"PATH": os.environ["PATH"], "HOME": str(self._data), "XDG_DATA_HOME": str(self._data)}
        process = subprocess.Popen(
            [sys.executable, "-m", "runtime.cli.main", "models", *arguments],
            env=environ | {"HF_ENDPOINT": self._hub.url, "PYTHONPATH": str(REPOSITORY)},
            cwd=self._data,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._processes.append(process)
        return process

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()


@pytest.fixture
def terminal(tmp_path: Path, hub: StandIn) -> Iterator[Terminal]:
    terminal = Terminal(tmp_path, hub)
    yield terminal
    hub.go_on()
    terminal.close()


def test_two_pulls_at_once_download_once(terminal: Terminal, hub: StandIn) -> None:
    hub.hold_after(20_000)
    first = terminal.start("pull", NAME)
    eventually(hub.holding, "the first to be on its way")
    second = terminal.start("pull", NAME)
    assert second.stderr is not None
    assert second.stderr.readline() == f"note: another process works on {NAME}: waiting for it\n"
    refused = terminal.start("remove", NAME, "--yes")
    _, said = refused.communicate(timeout=30)
    assert (refused.returncode, "Another process works on org/tiny" in said) == (2, True)
    hub.go_on()
    ready = f"Model {NAME} is ready in {terminal.store.folder(NAME)}\n"
    assert [process.communicate(timeout=30)[0] for process in (first, second)] == [ready, ready]
    assert len(hub.downloads(WEIGHTS)) == 1
    assert len([asked for asked in hub.asked if "/api/" in asked.path]) == 1
    assert sound(terminal.store) == [NAME]


def test_ctrl_c_keeps_what_came_and_says_how_to_go_on(terminal: Terminal, hub: StandIn) -> None:
    hub.hold_after(60_000)
    first = terminal.start("pull", NAME, "--revision", "main")
    eventually(hub.holding, "it to be on its way")
    kept = terminal.store.models_dir / PARTIAL / WEIGHTS
    eventually(lambda: kept.exists() and kept.stat().st_size > 40_000, "the bytes to be kept")
    first.send_signal(signal.SIGINT)
    _, said = first.communicate(timeout=30)
    assert first.returncode == 130
    assert f"\nnote: stopped; `functions models pull {NAME} --revision main` goes on where it was\n" in said
    assert "Traceback" not in said
    hub.go_on()
    again = terminal.start("pull", NAME)
    _, said = again.communicate(timeout=30)
    assert (again.returncode, hub.downloads(WEIGHTS)[-1].start > 40_000) == (0, True)
    assert f"pulling {NAME} (0.2 MB from 127.0.0.1:" in said
    assert sound(terminal.store) == [NAME]


# --- no network, and no right to write -------------------------------------------------------

EMBED = """
from runtime import ai

session = ai.Session("org/tiny")


async def handler(request):
    return await session.run("hello", mean_pool=True, normalize=True)
"""


def test_a_running_server_finds_models_that_are_pulled_meanwhile(hub: StandIn, tmp_path: Path) -> None:
    root = project(tmp_path / "project", {"embed": EMBED})
    with serving(root, env={"XDG_DATA_HOME": str(tmp_path / "data")}) as server, server.client() as client:
        assert client.get("/embed").json()["code"] == "BOOT_ERROR"
        store = Store(tmp_path / "data" / "functions" / "models", {})
        pulled(store, NAME)
        eventually(lambda: client.get("/embed").status_code == 200, "the function to find its model")
        first = client.get("/embed").json()
        assert len(first) == 16
        other = tiny.write_folder(tmp_path / "other", tiny.random_weights(seed=8))
        hub.put(NAME, contents(other), "v2")
        pulled(store, f"{NAME}@v2")
        eventually(lambda: client.get("/embed").json() != first, "the function to have the new version")
        assert len(client.get("/embed").json()) == 16


def test_a_store_that_nobody_can_write_to_serves_with_the_network_down(hub: StandIn) -> None:
    user = User("ordinary")  # root may write anywhere
    with user.folder() as folder:
        models = folder / "data" / "functions" / "models"
        pulled(Store(models, {}), NAME)
        folders = [path for path in (folder / "data").rglob("*") if path.is_dir()]
        for path in folders:
            path.chmod(0o555)
        root = project(folder / "project", {"embed": EMBED}, '[ai]\npreload = ["org/tiny"]\n')
        away = {"XDG_DATA_HOME": str(folder / "data"), "HF_ENDPOINT": "http://127.0.0.1:1"}
        try:
            with user.serving(root, env=away) as server, server.client() as client:
                assert "Models: org/tiny" in server.log
                assert len(client.get("/embed").json()) == 16
        finally:
            for path in folders:
                path.chmod(0o755)
    assert "cannot be stored" not in server.log
