"""The text for Prometheus, read back by its own parsers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics

from runtime.gateway.exposition import OPENMETRICS, PLAIN, Family, Sample, content_type, lines

COUNTER = Family("things", "counter", 'Things \\ and\n"more".')
GAUGE = Family("level", "gauge", "A level.")


def text(family: Family, *samples: Sample, form: str = PLAIN) -> str:
    return "".join(lines([(family, samples)], form))


def test_the_plain_format_names_a_counter_as_it_is_queried() -> None:
    assert text(COUNTER, Sample((("of", "a"),), 3)) == (
        '# HELP things_total Things \\\\ and\\n"more".\n# TYPE things_total counter\nthings_total{of="a"} 3\n'
    )


def test_openmetrics_names_the_family_and_says_where_it_ends() -> None:
    page = text(Family("things", "counter", "Things."), Sample((), 3), form=OPENMETRICS)
    assert page == "# HELP things Things.\n# TYPE things counter\nthings_total 3\n# EOF\n"


@given(st.text(st.characters(exclude_categories=["Cs"])), st.floats(allow_nan=False))
def test_whatever_a_label_holds_it_is_read_back(value: str, number: float) -> None:
    page = text(GAUGE, Sample((("of", value),), number))
    [family] = parser.text_string_to_metric_families(page)
    [sample] = family.samples
    assert (sample.labels, sample.value) == ({"of": value}, number)
    page = text(GAUGE, Sample((("of", value),), number), form=OPENMETRICS)
    [family] = openmetrics.text_string_to_metric_families(page)  # type: ignore[no-untyped-call]
    assert family.samples[0].labels == {"of": value}


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("", PLAIN),
        ("*/*", PLAIN),
        ("text/plain;version=0.0.4;q=0.5,*/*;q=0.1", PLAIN),
        ("application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5", OPENMETRICS),
    ],
)
def test_openmetrics_is_for_those_who_ask_for_it(accept: str, form: str) -> None:
    assert content_type(accept) == form
