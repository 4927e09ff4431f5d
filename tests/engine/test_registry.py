from __future__ import annotations

from pathlib import Path

import pytest

from runtime.engine.models.pull import pull_folder
from runtime.engine.models.remove import remove
from runtime.engine.models.store import Store
from runtime.engine.registry import Registry
from runtime.errors import ModelNotFound
from tests.engine.tiny import random_weights, write_folder

pytestmark = pytest.mark.anyio


async def test_a_model_folder_inside_the_project_is_loaded(tiny_folder: Path, models_dir: Path) -> None:
    registry = Registry(Store(models_dir), str(tiny_folder.parent))
    assert (await registry.get(str(tiny_folder))).dimensions > 0
    registry.close()


@pytest.mark.parametrize("path", ["{outside}", "{project}/../{name}", "{project}/link", "/", "{project}"])
async def test_a_folder_outside_the_project_is_not_read(
    path: str, tiny_folder: Path, models_dir: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.symlink_to(tiny_folder)
    project = tmp_path / "project"
    project.mkdir()
    (project / "link").symlink_to(tiny_folder)
    registry = Registry(Store(models_dir), str(project))
    with pytest.raises(ModelNotFound, match="outside the project"):
        await registry.get(path.format(outside=outside, project=project, name="outside"))
    registry.close()


async def test_a_replaced_model_is_loaded_anew(tmp_path: Path) -> None:
    store = Store(tmp_path / "models", {})
    pull_folder(write_folder(tmp_path / "a"), "mine", store, lambda *_: None)
    registry = Registry(store)
    first = await registry.get("mine")
    registry.forget_replaced()
    assert await registry.get("mine") is first
    remove(store, "mine")
    registry.forget_replaced()
    assert await registry.get("mine") is first  # who has it may go on with it
    pull_folder(write_folder(tmp_path / "b", random_weights(3)), "mine", store, lambda *_: None)
    registry.forget_replaced()
    second = await registry.get("mine")
    assert second.card == store.get("mine") != first.card
    registry.close()
