"""supabase-py, unmodified, from a virtual environment of its own."""

from __future__ import annotations

from typing import Any

import pytest

from tests.clients import needs, report

SOURCES = ("supabase_py_tour.py",)


@pytest.fixture(scope="module")
def findings(world: dict[str, str]) -> dict[str, Any]:
    return report.travel([needs.supabase_py(), "supabase_py_tour.py"], SOURCES, world)


@pytest.mark.parametrize("step", report.steps(*SOURCES))
def test_supabase_py(findings: dict[str, Any], step: str) -> None:
    assert findings[step] is None, findings[step]
