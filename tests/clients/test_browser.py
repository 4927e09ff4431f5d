"""supabase-js in a page in headless Chromium, unmodified, and what else pages do."""

from __future__ import annotations

from typing import Any

import pytest

from tests.clients import needs, report

SOURCES = ("supabase_tour.mjs", "page.mjs", "page_tour.mjs")


@pytest.fixture(scope="module")
def findings(world: dict[str, str]) -> dict[str, Any]:
    return report.travel([needs.node(), "page_tour.mjs"], SOURCES, {**world, "chromium": needs.chromium()})


@pytest.mark.parametrize("step", report.steps(*SOURCES))
def test_a_page_in_chromium(findings: dict[str, Any], step: str) -> None:
    assert findings[step] is None, findings[step]
