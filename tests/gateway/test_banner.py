"""What a person sees when the server is ready."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from runtime.gateway.banner import banner
from runtime.gateway.registry import Registry
from runtime.project.settings import Project
from tests.gateway.house import House
from tests.gateway.projects import SECRET, URL, functions, project

pytestmark = pytest.mark.anyio


async def shown(house: House, project: Project, models: list[str] | None = None) -> str:
    registry = Registry(house.services, URL)
    await registry.apply(project)
    await registry.settled()
    text = banner(project, registry, URL, models or [])
    await registry.close(0, "test")
    return text


async def _later(root: Path, *names: str) -> Project:
    return await asyncio.to_thread(project, root, functions(*names))


@pytest.fixture
def one(tmp_path: Path) -> Project:
    return project(tmp_path, functions("hello"))


async def test_it_shows_where_the_functions_are_and_how_to_call_one(house: House, one: Project) -> None:
    authorization, data = '-H "Authorization: Bearer $ANON_KEY"', '{"name":"Functions"}'
    lines = (await shown(house, one, ["gte-small"])).splitlines()
    assert f"Serving functions on {URL}/functions/v1/<function-name>" in lines
    assert f" - {URL}/functions/v1/hello" in lines
    assert "Models: gte-small" in lines
    assert f"  curl -X POST {URL}/functions/v1/hello {authorization} -d '{data}'" in lines


async def test_a_secret_of_ones_own_is_not_shown(house: House, one: Project) -> None:
    text = await shown(house, one)
    assert SECRET not in text
    assert one.keys.anon_key not in text


async def test_a_key_made_for_local_use_stands_in_the_line(house: House, one: Project) -> None:
    local = msgspec.structs.replace(one, keys=msgspec.structs.replace(one.keys, generated=True))
    assert f'"Authorization: Bearer {one.keys.anon_key}"' in await shown(house, local)


async def test_where_no_key_is_needed_none_is_shown(house: House, tmp_path: Path, one: Project) -> None:
    settings = msgspec.structs.replace(one.settings, verify_jwt=False)
    assert "Authorization" not in await shown(house, msgspec.structs.replace(one, settings=settings))
    open_function = msgspec.structs.replace(one.functions["hello"], verify_jwt=False)
    opened = msgspec.structs.replace(one, functions={"hello": open_function})
    assert "Authorization" not in await shown(house, opened)


async def test_at_most_five_functions_are_shown(house: House, tmp_path: Path) -> None:
    text = await shown(house, await _later(tmp_path, *"gfedcba"))
    assert [line.rsplit("/", 1)[1] for line in text.splitlines() if line.startswith(" - ")] == list("abcde")
    assert "… and 2 more: functions list" in text
    assert "/functions/v1/a -H" in text


async def test_hello_is_the_one_to_try(house: House, tmp_path: Path) -> None:
    assert "/functions/v1/hello -H" in await shown(house, await _later(tmp_path, "aaa", "hello"))


async def test_without_functions_it_says_how_to_begin(house: House, tmp_path: Path) -> None:
    (tmp_path / "functions").mkdir()
    text = await shown(house, await _later(tmp_path))
    assert f"none yet in {tmp_path}/functions: functions new hello" in text
    assert "Models: none loaded at start (functions models list)" in text
    assert "curl" not in text


async def test_a_function_that_did_not_start_says_why_in_one_line(house: House, one: Project) -> None:
    house.on_boot = lambda worker: worker.fail("SyntaxError: invalid syntax\n  more of it")
    lines = (await shown(house, one)).splitlines()
    assert f" - {URL}/functions/v1/hello   (did not start: SyntaxError: invalid syntax)" in lines


async def test_a_long_reason_is_cut_since_the_log_has_it(house: House, one: Project) -> None:
    house.on_boot = lambda worker: worker.fail("ModelNotFound: " + "many words " * 20)
    (line,) = (line for line in (await shown(house, one)).splitlines() if "did not start" in line)
    assert line.endswith("…)")
    assert len(line) < 160


async def test_an_empty_prefix_is_none(house: House, tmp_path: Path) -> None:
    config = {"supabase/config.toml": '[edge_runtime]\nprefix = ""\n'}
    bare = await asyncio.to_thread(project, tmp_path, {**functions("hello"), **config})
    assert f" - {URL}/hello\n" in await shown(house, bare)
