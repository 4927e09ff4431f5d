"""`python -m bench embed` from end to end, on one layer and with few texts."""

from __future__ import annotations

import contextlib
import functools
import io
import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
import pytest

from bench import accuracy, embed, gte, peak, speeds
from bench.closed import Outcome
from bench.rivals import ENGINE, NAIVE, PADDED, UNPADDED, Looped, Vectors
from bench.table import Number

CLIENTS = 3
NAMES = ["ours, fp32", "ours, int8", ENGINE, PADDED, UNPADDED, NAIVE]


class Report(NamedTuple):
    """What came out."""

    numbers: dict[str, Number]
    table: list[str]
    picture: str


@pytest.fixture(scope="module")
def thin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pytest.MonkeyPatch]:
    """One layer in the place of twelve, in a folder for these tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("bench")))
        patch.setattr(gte, "GTE", gte.THIN)
        patch.setattr(gte, "LAYERS", {gte.THIN: 1})
        patch.setattr(gte, "data_home", functools.cache(gte.data_home.__wrapped__))
        yield patch


@pytest.fixture(scope="module")
def report(thin: pytest.MonkeyPatch) -> Report:
    thin.setattr(embed, "FULL", embed.Sizes(rounds=1, texts=24, alone=8, steady=120, bulk=800))
    thin.setattr(embed, "UNPADDED_LEAST", {CLIENTS: 0.0})
    thin.setattr(embed, "_FEWEST", 5)
    thin.setattr(accuracy, "available", lambda: ["fp32", "int8"])
    thin.setattr(embed, "installed", lambda name: False)
    thin.setattr(peak, "measure", peak.here)
    thin.setattr(peak, "_SIZES", (64,))
    for module in (peak, speeds):
        thin.setattr(module, "_SLICE_S", 0.0)
    plot = Path(tempfile.gettempdir(), "plot.svg")
    with contextlib.redirect_stdout(io.StringIO()) as out:
        numbers = embed.measure(plot=plot)
    return Report({number.what: number for number in numbers}, out.getvalue().splitlines(), plot.read_text())


def test_all_of_them_are_measured_under_every_load(report: Report) -> None:
    start = next(place for place, line in enumerate(report.table) if line.split()[:1] == ["texts/s"])
    loads = [line.strip() for line in report.table[start:] if line[2:3].strip()]
    assert loads == [embed.LONE, "1 client", f"{CLIENTS} clients", embed.BULK]
    rows = [line for line in report.table[start + 1 :] if line.startswith("    ")]
    assert [next(name for name in NAMES if name in row) for row in rows] == NAMES * len(loads)
    assert all(float(row.split("  ")[-1]) > 0 for row in rows)


def test_every_promise_has_its_numbers(report: Report) -> None:
    assert {what[:2] for what in report.numbers} == {"1 ", "2 ", "3 ", "4 ", "5 "}
    assert all(math.isfinite(number.value) for number in report.numbers.values())


@pytest.mark.parametrize(
    "what", ["1 fp32, {}: over padded", "1 fp32, {}: over unpadded", "2 int8, {}: over padded"]
)
def test_a_ratio_of_rates_has_that_of_the_processor_s_time_beside_it(report: Report, what: str) -> None:
    what = what.format(f"{CLIENTS} clients")
    assert report.numbers[what].bound
    assert not report.numbers[f"{what}, by CPU"].bound


def test_the_real_model_s_vectors_are_as_near_as_promised(report: Report) -> None:
    cosines = [number for what, number in report.numbers.items() if "cosine" in what]
    assert len(cosines) == 5
    assert [number.what for number in cosines if not number.met] == []


@pytest.mark.parametrize("length", peak.LENGTHS)
def test_each_precision_s_speed_is_told_by_length(report: Report, length: int) -> None:
    assert f"2 fp32 on one core, a text of {length} tokens" in report.numbers
    assert f"2 int8 on one core, a text of {length} tokens: over fp32" in report.numbers


def test_a_class_of_lengths_is_named_by_both_its_ends(report: Report) -> None:
    classes = [what.partition(": ")[0] for what in report.numbers if what.startswith("5 32 clients")]
    assert any(name.startswith("5 32 clients, 17 to 32 tokens (") for name in classes)


def test_the_picture_has_all_of_them(report: Report) -> None:
    words = {text.text for text in ElementTree.fromstring(report.picture).iter()}
    assert {*NAMES, embed.LONE, embed.BULK} <= words


class Contender:
    """Answers with these vectors."""

    def __init__(self, name: str, *vectors: list[float]) -> None:
        self.name, self._vectors = name, list(vectors)

    def serve(self, texts: Sequence[str], clients: int) -> Outcome:
        raise AssertionError("nobody may be measured before")

    def vectors(self, texts: Sequence[str]) -> list[list[float]]:
        assert len(texts) == len(self._vectors)
        return self._vectors


@pytest.mark.parametrize("wrong", [[0.0, 1.0], [0.9, -0.1], [float("nan"), 0.0]])
def test_who_computes_something_else_is_refused(thin: pytest.MonkeyPatch, wrong: list[float]) -> None:
    engine = Contender(ENGINE, [1.0, 0.0], [0.6, 0.8])
    embed.check(engine, [engine, Contender("as good", [2.0, 0.01], [0.6, 0.8])])
    with pytest.raises(RuntimeError, match=r"a rival computes something else: .* to engine alone"):
        embed.check(engine, [engine, Contender("a rival", [1.0, 0.0], wrong)])


class Library:
    """Notes how many texts each run gets."""

    at_once, threads = 4, 1

    def __init__(self, divides: bool) -> None:
        self.divides = divides
        self.runs: list[int] = []

    def run(self, texts: Sequence[str]) -> Vectors:
        self.runs.append(len(texts))
        return np.ones((len(texts), 2), np.float32)


@pytest.mark.parametrize(("divides", "runs"), [(True, [10]), (False, [4, 4, 2])])
def test_a_library_gets_a_whole_call_to_divide_and_clients_texts_a_few_at_a_time(
    divides: bool, runs: list[int]
) -> None:
    library = Library(divides)
    took, waits = Looped(library).serve(["text"] * 10, clients=0)
    assert library.runs == runs
    assert took > 0 == len(waits)
    _, waits = Looped(library).serve(["text"] * 10, clients=6)
    assert len(waits) == 10
    assert max(library.runs[len(runs) :]) == 4
    assert Looped(library).vectors(["text"] * 10).shape == (10, 2)


def test_other_graphs_or_another_format_make_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gte, "graphs", SimpleNamespace(__file__=str(tmp_path / "__init__.py")))
    versions = [gte._version()]
    (tmp_path / "network.py").write_text("LAYERS = 1")
    versions.append(gte._version())
    (tmp_path / "network.py").write_text("LAYERS = 2")
    versions += [gte._version(), gte._version()]
    monkeypatch.setattr(gte, "FORMAT", 0)
    versions.append(gte._version())
    assert len(set(versions)) == 4
    assert versions[2] == versions[3]
