"""Which model store a command works on."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from runtime.cli.root import root_or_here

if TYPE_CHECKING:
    from runtime.engine.models.store import Store


def open_store(root: str | None) -> Store:
    """The model store that the project at `root`, if there is one, uses."""
    from runtime.engine.models.store import Store
    from runtime.project.config import read_config
    from runtime.project.settings import AI

    base = root_or_here(root)
    ai = read_config(base, os.environ).settings.get("ai", AI())
    return Store(os.path.join(base, os.path.expanduser(ai.models_dir)) if ai.models_dir else "")
