"""The server works wherever the project is, and whoever starts it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.running import body, project

from .users import ME, USERS, User

# The function uses a module of its own, `_shared`, and a folder to write to.
SOURCES = {
    "here": """
import os
from . import near
from .._shared import far

async def handler(request):
    with open("note", "w") as file:
        file.write("written")
    return {"near": near.NAME, "far": far.NAME, "file": __file__, "user": os.getuid(), "cwd": os.getcwd()}
""",
    "here/near.py": 'NAME = "near"\n',
    "_shared/far.py": 'NAME = "far"\n',
}


@pytest.fixture
def folder(user: User) -> Iterator[Path]:
    with user.folder() as folder:
        yield folder


def serves(user: User, root: Path) -> None:
    """The function answers, also after a change; nothing is written into the project."""
    before = contents(root)
    with user.serving(root) as server, server.client() as client:
        answer = body(client.get("/here"))
        assert (answer["near"], answer["far"]) == ("near", "far")
        assert answer["file"] == f"{root}/functions/here/index.py"
        assert (answer["user"] == 0) is False
        assert Path(answer["cwd"]).is_relative_to(root.parent / "tmp")
        if os.access(root / "functions" / "here" / "near.py", os.W_OK):
            newer = 'NAME = "new"\n'
            server.save_until(
                "functions/here/near.py", newer, lambda: body(client.get("/here"))["near"] == "new"
            )
        assert contents(root) == before
    assert server.process.returncode == 0


def contents(root: Path) -> set[str]:
    return {str(path) for path in root.rglob("*")}


def spaces(folder: Path) -> Path:
    return folder / "a path with  spaces, ümläuts 火 and 'quotes'" / "project"


def long(folder: Path) -> Path:
    """200 characters: longer than any Unix socket's path may be."""
    missing = 200 - len(str(folder)) - len("//project")
    return folder / ("x" * missing) / "project"


def with_symbols(folder: Path) -> Path:
    return folder / "50%{HOME} $HOME #[a-z]*;&" / "project"


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("place", [spaces, long, with_symbols])
def test_it_works_in_a_path_with(user: User, folder: Path, place: Callable[[Path], Path]) -> None:
    root = place(folder)
    (root.parent / "tmp").mkdir(parents=True)
    assert place is not long or len(str(root)) == 200
    serves(user, project(root, SOURCES))


@pytest.mark.parametrize("user", USERS)
def test_it_works_with_functions_that_nobody_may_change(user: User, folder: Path) -> None:
    root = project(folder / "project", SOURCES)
    functions = root / "functions"
    user.own(root)
    with ExitStack() as later:
        for path in (functions, *functions.rglob("*")):
            mode = path.stat().st_mode
            path.chmod(mode & 0o555)
            later.callback(path.chmod, mode)
        serves(user, root)


@pytest.mark.parametrize("user", USERS)
def test_it_works_in_a_private_folder(user: User, folder: Path) -> None:
    """As root, workers are users who cannot even enter the folder that their code came from."""
    private = folder / "private"
    (private / "tmp").mkdir(parents=True)
    root = project(private / "project", SOURCES)
    root.chmod(0o700)
    serves(user, root)


@pytest.mark.parametrize("user", USERS)
def test_it_works_with_a_private_folder_for_temporary_files(user: User, folder: Path) -> None:
    """Some systems give every user, and root too, a private TMPDIR."""
    root = project(folder / "project", SOURCES)
    private = folder / "tmp" / "private"
    private.mkdir(mode=0o700)
    with user.serving(root, env={"TMPDIR": str(private)}) as server, server.client() as client:
        cwd = Path(body(client.get("/here"))["cwd"])
        assert cwd.is_dir()
    assert not cwd.exists()
    assert not any(private.iterdir())


def test_it_works_from_another_working_directory_and_with_a_relative_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ME.folder() as folder:
        project(folder / "project", SOURCES)
        monkeypatch.chdir(folder)
        with ME.serving(Path("project")) as server, server.client() as client:
            assert body(client.get("/here"))["file"] == f"{folder}/project/functions/here/index.py"
