"""Noticing that a file was saved."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from watchfiles import Change, awatch

from runtime.gateway import reload
from runtime.gateway.reload import Saves, file_saves, is_watched, project_saves
from tests.gateway.house import until

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "path",
    [
        "functions/a/index.py",
        "functions/a/data.json",
        "functions/a/.env",
        "supabase/config.toml",
        "functions/_shared/b.py",
    ],
)
def test_what_a_person_saves_passes(path: str) -> None:
    assert Saves("/p")(Change.modified, f"/p/{path}")


@pytest.mark.parametrize(
    "path",
    [
        "functions/a/index.py~", "functions/a/.index.py.swp", "functions/a/4913", "functions/a/#index.py#",
        "functions/a/.#index.py", "functions/a/___jb_tmp___", "functions/a/x.tmp", "functions/a/x.pyc",
        "functions/a/__pycache__/x.py", "functions/a/node_modules/b/c.js", "functions/.git/HEAD",
        "supabase/.functions/keys.json", "functions/a/.venv/lib/x.py",
    ],
)  # fmt: skip
def test_what_editors_and_tools_drop_does_not(path: str) -> None:
    assert not Saves("/p")(Change.modified, f"/p/{path}")


def test_the_folder_itself_may_lie_in_any_other() -> None:
    assert Saves("/home/me/.venv/node_modules/p")(
        Change.added, "/home/me/.venv/node_modules/p/functions/a/index.py"
    )


def test_one_file_alone_may_matter() -> None:
    passes = Saves("/p", "/p/.env")
    assert passes(Change.modified, "/p/.env")
    assert not passes(Change.modified, "/p/other")


def test_what_is_watched_is_known() -> None:
    assert is_watched("/p", "/p/supabase/functions/.env")
    assert not is_watched("/p", "/p/supabase.env")
    assert not is_watched("/p", "/elsewhere/.env")


class Watch:
    def __init__(self) -> None:
        self.batches: list[set[str]] = []

    def saw(self, path: Path) -> bool:
        return any(str(path) in batch for batch in self.batches)


@asynccontextmanager
async def watching(saves: AsyncIterator[set[str]]) -> AsyncIterator[Watch]:
    watch = Watch()

    async def follow() -> None:
        async for batch in saves:
            watch.batches.append(batch)

    task = asyncio.create_task(follow())
    yield watch
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def saved(watch: Watch, path: Path) -> None:
    """Save until it is seen: nobody tells when the watch has begun."""

    def save() -> bool:
        if not watch.saw(path):
            path.write_text(f"{path.stat().st_size if path.exists() else 0}")
        return watch.saw(path)

    await until(save)


async def test_a_save_is_noticed_and_rubbish_is_not(tmp_path: Path) -> None:
    (tmp_path / "functions" / "a").mkdir(parents=True)
    async with watching(project_saves(str(tmp_path))) as watch:
        await saved(watch, tmp_path / "functions/a/index.py")
        (tmp_path / "functions/a/index.py~").write_text("x")
        (tmp_path / "elsewhere.txt").write_text("x")
        await saved(watch, tmp_path / "functions/a/other.py")
    seen = {path for batch in watch.batches for path in batch}
    assert seen == {str(tmp_path / "functions/a/index.py"), str(tmp_path / "functions/a/other.py")}


async def test_a_folder_that_comes_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reload, "_LOOK_AGAIN_MS", 50)
    async with watching(project_saves(str(tmp_path))) as watch:
        await asyncio.sleep(0.05)
        (tmp_path / "functions" / "a").mkdir(parents=True)
        await until(lambda: watch.batches)
        await saved(watch, tmp_path / "functions/a/index.py")


async def test_a_folder_that_is_replaced_is_watched_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reload, "_LOOK_AGAIN_MS", 50)
    (tmp_path / "functions").mkdir()
    async with watching(project_saves(str(tmp_path))) as watch:
        await saved(watch, tmp_path / "functions/first.py")
        (tmp_path / "new").mkdir()
        (tmp_path / "functions").rename(tmp_path / "old")
        (tmp_path / "new").rename(tmp_path / "functions")
        await saved(watch, tmp_path / "functions/second.py")


async def test_a_file_elsewhere_is_watched_alone_and_may_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "secrets.env"
    async with watching(file_saves(str(path))) as watch:
        await saved(watch, path)
        count = len(watch.batches)

        def replaced() -> bool:
            (tmp_path / "secrets.env.new").write_text("x")
            (tmp_path / "secrets.env.new").rename(path)
            return len(watch.batches) > count

        await until(replaced)
    assert {name for batch in watch.batches for name in batch} == {str(path)}


# --- places elsewhere in the project ------------------------------------------------------


async def test_places_elsewhere_are_watched_also_when_they_come_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reload, "_LOOK_AGAIN_MS", 50)
    (tmp_path / "functions").mkdir()
    (tmp_path / "assets" / "deep").mkdir(parents=True)
    places = {str(tmp_path / "assets"): False}
    async with watching(project_saves(str(tmp_path), lambda: places)) as watch:
        await saved(watch, tmp_path / "assets/deep/logo.svg")
        places[str(tmp_path / "data" / "tables")] = True
        (tmp_path / "data" / "tables").mkdir(parents=True)
        await saved(watch, tmp_path / "data/tables/x.csv")


async def test_what_a_batch_changes_about_the_places_counts_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reload, "_LOOK_AGAIN_MS", 3_600_000)
    (tmp_path / "functions").mkdir()
    (tmp_path / "assets").mkdir()
    places: dict[str, bool] = {}
    async with watching(project_saves(str(tmp_path), lambda: places)) as watch:
        await saved(watch, tmp_path / "functions/a.py")
        places[str(tmp_path / "assets")] = False
        (tmp_path / "functions/b.py").write_text("this batch brings the place")
        await saved(watch, tmp_path / "assets/logo.svg")


@pytest.mark.parametrize("deep", [False, True])
async def test_files_in_the_projects_own_folder_make_an_empty_batch(tmp_path: Path, deep: bool) -> None:
    for name in ("functions", "other", "venv"):
        (tmp_path / name).mkdir()
    places = {str(tmp_path): deep}
    async with watching(project_saves(str(tmp_path), lambda: places)) as watch:
        await saved(watch, tmp_path / "functions/a.py")
        count = len(watch.batches)

        def noticed() -> bool:
            (tmp_path / "terms.txt").write_text(str(len(watch.batches)))
            return len(watch.batches) > count

        await until(noticed)
        if deep:
            await saved(watch, tmp_path / "other/x.txt")
    assert not any("venv" in path for batch in watch.batches for path in batch)


def test_only_what_matters_of_the_projects_own_folder_is_looked_at(tmp_path: Path) -> None:
    for name in ("functions", "other", ".git", "node_modules"):
        (tmp_path / name).mkdir()
    for name in ("terms.txt", ".env"):
        (tmp_path / name).write_text("")

    def looked_at(places: dict[str, bool]) -> set[str]:
        return {Path(path).name for path in reload._marks(str(tmp_path), places)}

    assert looked_at({}) == {"functions"}
    assert looked_at({str(tmp_path): False}) == {"functions", "terms.txt"}
    assert looked_at({str(tmp_path): True}) == {"functions", "terms.txt", "other"}
    assert looked_at({str(tmp_path / "other"): True, str(tmp_path / "nope"): True}) == {"functions", "other"}
    assert looked_at({str(tmp_path / "functions" / "a"): True}) == {"functions"}


def test_a_link_to_itself_a_link_away_and_a_root_that_is_gone_are_not_watched(tmp_path: Path) -> None:
    root = tmp_path / "project"
    (root / "pages").mkdir(parents=True)
    (root / "loop").symlink_to("loop")
    (root / "away").symlink_to("/")
    for deep in (False, True):
        looked_at = reload._marks(str(root), {str(root): deep})
        assert {Path(path).name for path in looked_at} == ({"pages"} if deep else set())
    assert reload._marks(str(tmp_path / "gone"), {str(tmp_path / "gone"): True}) == {}


async def test_a_link_to_itself_in_the_projects_folder_does_not_end_the_watching(tmp_path: Path) -> None:
    (tmp_path / "functions").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    async with watching(project_saves(str(tmp_path), lambda: {str(tmp_path): False})) as watch:
        await saved(watch, tmp_path / "functions/a.py")


# --- what the system does not let us watch ------------------------------------------------


class Refusing:
    """`awatch`, where some folders cannot be watched."""

    def __init__(self, error: Exception, *folders: Path) -> None:
        self.folders = {str(folder) for folder in folders}
        self._error = error

    def __call__(self, *paths: str, **options: Any) -> AsyncIterator[set[tuple[Change, str]]]:
        return self._refuse() if self.folders & set(paths) else awatch(*paths, **options)

    async def _refuse(self) -> AsyncIterator[set[tuple[Change, str]]]:
        for error in (self._error,):
            raise error
        yield set()


NO_ROOM = "OS file watch limit reached."


@pytest.mark.parametrize("error", [OSError(NO_ROOM), RuntimeError(NO_ROOM)])
async def test_places_that_cannot_be_watched_are_told_of_once_and_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(reload, "_LOOK_AGAIN_MS", 50)
    monkeypatch.setattr(reload, "awatch", Refusing(error, tmp_path / "large"))
    for name in ("functions", "large", "small"):
        (tmp_path / name).mkdir()
    places, told = {str(tmp_path / "large"): True}, list[str]()
    async with watching(project_saves(str(tmp_path), lambda: places, told.append)) as watch:
        await saved(watch, tmp_path / "functions/a.py")
        await saved(watch, tmp_path / "functions/b.py")
        assert len(told) == 1
        assert NO_ROOM in told[0]
        places.clear()  # the mistake is mended
        places[str(tmp_path / "small")] = True
        await saved(watch, tmp_path / "functions/c.py")
        await saved(watch, tmp_path / "small/logo.svg")
    assert len(told) == 1


async def test_where_nothing_can_be_watched_one_looks_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reload, "_LOOK_AGAIN_MS", 10)
    refusing = Refusing(OSError(NO_ROOM), tmp_path, tmp_path / "functions")
    monkeypatch.setattr(reload, "awatch", refusing)
    (tmp_path / "functions").mkdir()
    told = list[str]()
    async with watching(project_saves(str(tmp_path), tell=told.append)) as watch:
        await until(lambda: len(watch.batches) >= 3)
        assert told == [f"functions/ and supabase/ cannot be watched: {NO_ROOM}; {reload._INSTEAD}"]
        refusing.folders.clear()
        await saved(watch, tmp_path / "functions/a.py")


async def test_a_file_elsewhere_that_cannot_be_watched_is_looked_at_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reload, "_LOOK_AGAIN_MS", 10)
    refusing = Refusing(OSError(NO_ROOM), tmp_path)
    monkeypatch.setattr(reload, "awatch", refusing)
    path, told = tmp_path / "secrets.env", list[str]()
    async with watching(file_saves(str(path), told.append)) as watch:
        await until(lambda: len(watch.batches) >= 3)
        assert told == [f"{path} cannot be watched: {NO_ROOM}; {reload._INSTEAD}"]
        refusing.folders.clear()
        await saved(watch, path)


async def test_a_folder_that_goes_in_the_moment_it_is_to_be_watched_is_no_trouble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, told = tmp_path / "functions", list[str]()
    folder.mkdir()

    async def goes(*paths: str, **options: Any) -> AsyncIterator[set[tuple[Change, str]]]:
        if str(folder) in paths:
            await asyncio.to_thread(folder.rmdir)
            monkeypatch.setattr(reload, "awatch", awatch)
        async for changes in awatch(*paths, **options):
            yield changes

    monkeypatch.setattr(reload, "awatch", goes)
    monkeypatch.setattr(reload, "_LOOK_AGAIN_MS", 50)
    async with watching(project_saves(str(tmp_path), tell=told.append)) as watch:
        await until(lambda: watch.batches)
        folder.mkdir()
        await saved(watch, folder / "a.py")
    assert told == []
