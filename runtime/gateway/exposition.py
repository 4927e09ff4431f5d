"""The text in which Prometheus reads numbers: its own format, 0.0.4, and OpenMetrics 1.0."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

Kind = Literal["counter", "gauge", "histogram", "summary"]
Labels = tuple[tuple[str, str], ...]

PLAIN = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_IN_VALUE = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
_IN_HELP = str.maketrans({"\\": r"\\", "\n": r"\n"})


class Sample(NamedTuple):
    """One line.

    Attributes:
        suffix: what follows the family's name: `_bucket`, `_sum` … A counter's is put there by us.
    """

    labels: Labels
    value: float
    suffix: str = ""


class Family(NamedTuple):
    """One metric.

    Attributes:
        name: without the `_total` of a counter.
        help: what it says, in one sentence.
    """

    name: str
    kind: Kind
    help: str

    @property
    def series(self) -> str:
        """The name to query: of a histogram or summary, without the suffixes of its parts."""
        return f"{self.name}_total" if self.kind == "counter" else self.name


def content_type(accept: str) -> str:
    """The format to answer with: OpenMetrics to those who ask for it."""
    return OPENMETRICS if "application/openmetrics-text" in accept else PLAIN


def lines(families: Iterable[tuple[Family, Iterable[Sample]]], form: str) -> Iterator[str]:
    """The page, line by line. `form` is one of the two content types."""
    for family, samples in families:
        titled = family.name if form == OPENMETRICS else family.series
        yield f"# HELP {titled} {family.help.translate(_IN_HELP)}\n"
        yield f"# TYPE {titled} {family.kind}\n"
        for labels, value, suffix in samples:
            yield f"{family.series}{suffix}{_braced(labels)} {_number(value)}\n"
    if form == OPENMETRICS:
        yield "# EOF\n"


def bound(upper: float) -> str:
    """The value of a bucket's label `le`."""
    return "+Inf" if upper == math.inf else repr(float(upper))


def _braced(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join([f'{name}="{value.translate(_IN_VALUE)}"' for name, value in labels]) + "}"


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else repr(value)
