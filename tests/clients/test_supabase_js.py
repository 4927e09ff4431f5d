"""supabase-js in Node, unmodified."""

from __future__ import annotations

from typing import Any

import pytest

from tests.clients import needs, report

SOURCES = ("supabase_tour.mjs",)


@pytest.fixture(scope="module")
def findings(world: dict[str, str]) -> dict[str, Any]:
    return report.travel([needs.node(), "node_tour.mjs"], SOURCES, world)


@pytest.mark.parametrize("step", report.steps(*SOURCES))
def test_supabase_js_in_node(findings: dict[str, Any], step: str) -> None:
    assert findings[step] is None, findings[step]
