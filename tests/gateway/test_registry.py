"""Every function that is served, and how a changed project changes them."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import msgspec
import pytest

from runtime.gateway.registry import Registry
from runtime.project.settings import Project
from tests.gateway.house import House, PlayedWorker, until
from tests.gateway.projects import SOURCE, URL, functions, project

pytestmark = pytest.mark.anyio


@pytest.fixture
def two(tmp_path: Path) -> Project:
    return project(tmp_path, functions("hello", "other"))


def serving(registry: Registry) -> dict[str, str]:
    """The generation that serves, by function."""
    return {
        deployment.name: deployment.pool.generation.name
        for deployment in registry.deployments
        if deployment.pool is not None
    }


def edited(project: Project, name: str, text: str) -> None:
    Path(project.functions[name].directory, "index.py").write_text(text)


async def later(root: Path, files: dict[str, str]) -> Project:
    """The project after these files were saved."""
    return await asyncio.to_thread(project, root, files)


async def applied(house: House, project: Project) -> Registry:
    registry = Registry(house.services, URL)
    await registry.apply(project)
    await registry.settled()
    return registry


async def test_every_enabled_function_is_served(house: House, two: Project) -> None:
    registry = await applied(house, two)
    assert sorted(registry.functions) == ["hello", "other"]
    assert {worker.boot.function for worker in house.workers if worker.boot} == {"hello", "other"}
    boot = next(worker.boot for worker in house.workers if worker.boot and worker.boot.function == "hello")
    assert boot.entrypoint == "hello/index.py"
    assert boot.environ["SUPABASE_FUNCTION_SLUG"] == "hello"
    found = registry.get("hello")
    assert found is not None
    assert found[0].name == found[1].name == "hello"
    await registry.close(0, "test")


@pytest.mark.parametrize(
    "name", ["", "Hello", "hello/", "hello ", "%68ello", "hel\x00lo", "h\u00e9llo", "x" * 4096, "_shared"]
)
async def test_any_other_name_is_none(house: House, two: Project, name: str) -> None:
    registry = await applied(house, two)
    assert registry.get(name) is None
    await registry.close(0, "test")


async def test_functions_have_numbers_of_their_own(house: House, two: Project) -> None:
    registry = await applied(house, two)
    assert sorted(deployment.slot for deployment in registry.deployments) == [0, 1]
    await registry.close(0, "test")


async def test_a_function_is_known_before_its_files_are_read(house: House, two: Project) -> None:
    registry = Registry(house.services, URL)
    registry.expect(two)
    found = registry.get("hello")
    assert found is not None
    assert (found[1].state, found[1].pool) == ("booting", None)
    await registry.close(0, "test")


async def test_only_what_changed_is_booted_again(house: House, two: Project) -> None:
    registry = await applied(house, two)
    before = serving(registry)
    assert await registry.apply(two) == []
    edited(two, "hello", SOURCE + "# changed\n")
    assert await registry.apply(two) == ["hello"]
    await registry.settled()
    after = serving(registry)
    assert after["other"] == before["other"]
    assert after["hello"] != before["hello"]
    assert len(house.forks) == 3
    await registry.close(0, "test")


async def test_a_shared_file_changes_the_functions_that_name_it(
    house: House, tmp_path: Path, two: Project
) -> None:
    with (tmp_path / "functions/hello/index.py").open("a") as file:
        file.write("# uses _shared\n")
    registry = await applied(house, two)
    (tmp_path / "functions/_shared").mkdir()
    (tmp_path / "functions/_shared/db.py").write_text("x = 1\n")
    assert await registry.apply(two) == ["hello"]
    await registry.close(0, "test")


async def test_a_changed_environment_is_a_generation_of_its_own_name(house: House, two: Project) -> None:
    registry = await applied(house, two)
    before = serving(registry)["hello"]
    for count in (1, 2):
        changed = msgspec.structs.replace(two, environment={"KEY": f"{count}"})
        assert await registry.apply(changed) == ["hello", "other"]
        await registry.settled()
        assert serving(registry)["hello"] == f"{before}+{count}"
    await registry.close(0, "test")


async def test_a_changed_limit_is_a_new_generation_too(house: House, tmp_path: Path, two: Project) -> None:
    registry = await applied(house, two)
    limited = await later(tmp_path, {"supabase/config.toml": "[functions.hello]\nconcurrency = 1\n"})
    assert await registry.apply(limited) == ["hello"]
    assert registry.functions["hello"].limits.concurrency == 1
    await registry.close(0, "test")


async def test_a_function_that_is_gone_is_served_no_more(house: House, tmp_path: Path, two: Project) -> None:
    registry = await applied(house, two)
    for config in ("[functions.other]\nenabled = false\n", ""):
        changed = await later(tmp_path, {"supabase/config.toml": config})
        assert await registry.apply(changed) == ["other"]
        await registry.settled()
        assert (registry.get("other") is None) == bool(config)
    await until(lambda: len(house.living) == 2)
    await registry.close(0, "test")


async def test_a_function_that_comes_back_keeps_its_number(
    house: House, tmp_path: Path, two: Project
) -> None:
    """Its files belong to that number's user."""
    registry = await applied(house, two)
    for config in ("[functions.hello]\nenabled = false\n", ""):
        await registry.apply(await later(tmp_path, {"supabase/config.toml": config}))
    assert {deployment.name: deployment.slot for deployment in registry.deployments} == {
        "hello": 0,
        "other": 1,
    }
    await registry.close(0, "test")


async def test_files_that_cannot_be_read_leave_the_old_version_serving(
    house: House, two: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = await applied(house, two)
    before = serving(registry)

    def unreadable(function: object) -> object:
        raise PermissionError(13, "Permission denied", "index.py")

    monkeypatch.setattr("runtime.gateway.registry.take", unreadable)
    assert await registry.apply(two) == []
    await registry.settled()
    assert serving(registry) == before
    assert "Permission denied" in house.log
    found = registry.get("hello")
    assert found is not None
    assert "Permission denied" in found[1].failure
    monkeypatch.undo()
    assert await registry.apply(two) == []
    assert found[1].failure == ""
    await registry.close(0, "test")


async def test_a_new_function_whose_files_cannot_be_read_has_failed(
    house: House, two: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(function: object) -> object:
        raise PermissionError(13, "Permission denied", "index.py")

    monkeypatch.setattr("runtime.gateway.registry.take", unreadable)
    registry = await applied(house, two)
    assert [deployment.state for deployment in registry.deployments] == ["failed", "failed"]
    assert house.forks == []
    await registry.close(0, "test")


async def test_a_mistake_in_the_settings_of_one_function_stops_no_other(
    house: House, tmp_path: Path, two: Project
) -> None:
    mistaken = await later(
        tmp_path, {"supabase/config.toml": "[functions.other]\nstatic_files = ['/etc/*']\n"}
    )
    registry = await applied(house, mistaken)
    states = {deployment.name: (deployment.state, deployment.failure) for deployment in registry.deployments}
    assert states["hello"] == ("ready", "")
    assert states["other"][0] == "failed"
    assert '"/etc/*" lies outside the project' in states["other"][1]
    await registry.close(0, "test")


async def test_one_that_does_not_start_keeps_nobody_waiting(house: House, two: Project) -> None:
    def boot(worker: PlayedWorker) -> None:
        assert worker.boot is not None
        if worker.boot.function == "other":
            worker.ready()
        else:
            worker.fail("broken")

    house.on_boot = boot
    registry = await applied(house, two)
    assert {deployment.name: deployment.state for deployment in registry.deployments} == {
        "hello": "failed",
        "other": "ready",
    }
    await registry.close(0, "test")


async def test_closing_ends_every_worker(house: House, two: Project) -> None:
    registry = await applied(house, two)
    await registry.close(1, "termination")
    await until(lambda: not house.living)
    assert {drain.reason for worker in house.workers for drain in worker.drains} == {"termination"}


async def test_a_new_engine_is_told_to_every_worker(house: House, two: Project) -> None:
    registry = await applied(house, two)
    ours, theirs = socket.socketpair()
    house.engine.arrive(theirs.detach())
    await until(lambda: house.engine._up is not None)
    registry.meet_engine()
    await until(lambda: all(worker.engines for worker in house.workers))
    ours.close()
    await registry.close(0, "test")
