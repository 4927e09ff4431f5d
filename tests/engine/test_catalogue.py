"""The models that we know."""

from __future__ import annotations

import re

from runtime.engine.models import catalogue
from runtime.engine.models.catalogue import EMBEDDED, PackageSource
from runtime.project.settings import DEFAULT_MODEL


def test_the_names_that_the_program_relies_on_are_in_it() -> None:
    entries = catalogue.load()
    assert {DEFAULT_MODEL, EMBEDDED} <= set(entries)
    assert isinstance(entries[EMBEDDED].source, PackageSource)


def test_every_entry_is_whole() -> None:
    for entry in catalogue.load().values():
        assert re.fullmatch("([0-9a-f]{64})?", entry.sha256)
        assert entry.size > 0
        assert entry.dimensions > 0
        assert entry.max_tokens > 0
        assert entry.licence
        assert str(entry.source)
