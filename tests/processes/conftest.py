"""Models for the servers of this folder."""

from __future__ import annotations

from tests.engine.conftest import models_dir, tiny_folder

__all__ = ["models_dir", "tiny_folder"]
