from __future__ import annotations

import pytest

from bench.table import Number, render


def test_a_number_near_one_keeps_what_matters() -> None:
    line = render([Number(what="cosine", value=0.9999861, unit="", least=0.9999, digits=6)]).splitlines()[1]
    assert line.split() == ["cosine", "0.999986", "≥", "0.9999", "ok"]


@pytest.mark.parametrize(("value", "met"), [(2.0, True), (1.99, False)])
def test_a_bound_is_met_when_it_is_reached(value: float, met: bool) -> None:
    assert Number(what="ratio", value=value, unit="×", least=2.0).met is met
