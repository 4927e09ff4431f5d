"""Which model store a command works on."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from runtime.cli.root import root_or_here

if TYPE_CHECKING:
    from runtime.engine.models.store import Store
    from runtime.project.settings import AI


def open_store(root: str | None) -> Store:
    """The model store that the project at `root`, if there is one, uses."""
    from runtime.engine.models.store import Store

    return Store(ai_settings(root).models_dir)


def ai_settings(root: str | None) -> AI:
    """What the project at `root`, if there is one, says of models, with absolute paths."""
    from runtime.project.config import read_config
    from runtime.project.load import with_absolute_paths
    from runtime.project.settings import AI

    base = root_or_here(root)
    settings = read_config(base, os.environ).settings.get("ai", AI())
    assert isinstance(settings, AI)
    return with_absolute_paths(base, settings)
