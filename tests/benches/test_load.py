"""The short form of `python -m bench load`: who is answered how, while everybody wants something."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench import load, servers
from bench.load import Mix, Scenario
from bench.traffic import Sample
from tests.engine.conftest import models_dir, tiny_folder

__all__ = ["models_dir", "tiny_folder"]

SECONDS = 3.0
KINDS = [*load.scenarios(0)]


@pytest.fixture(scope="module")
def mix(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mix]:
    """With a model that is made in no time."""
    data = tmp_path_factory.mktemp("data")
    shutil.copytree(models_dir, data / "functions" / "models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(servers, "MODEL", "tiny")
        patch.setattr(servers, "models", lambda: SimpleNamespace(name=str(data)))
        with load.server() as server:
            yield load.run(server, SECONDS)


@pytest.mark.parametrize("kind", KINDS)
def test_everybody_gets_the_right_answer_beside_all_the_others(mix: Mix, kind: str) -> None:
    samples = mix.samples[kind]
    assert len(samples) >= mix.scenarios[kind].clients
    assert [sample.outcome for sample in load.wrong(mix.scenarios[kind], samples)] == []


def test_a_wrong_answer_is_a_threshold_that_is_missed() -> None:
    samples = [Sample(0.0, 1.0, "200"), Sample(0.0, 1.0, "200 (wrong)"), Sample(0.0, 1.0, "429 OVERLOADED")]
    numbers = load.results(Mix({"hello": Scenario(b"", times=2)}, {"hello": 1.0}, {"hello": samples}, 0.1))
    assert [(number.what, number.value) for number in numbers if not number.met] == [
        ("hello: wrong, of 3 answers (1 200 (wrong), 1 429 OVERLOADED)", 2)
    ]


def test_one_that_is_too_slow_is_a_threshold_that_is_missed() -> None:
    samples = [Sample(0.0, 2.5)]
    numbers = load.results(Mix({"hello": Scenario(b"", times=2)}, {"hello": 1.0}, {"hello": samples}, 0.6))
    assert [number.what for number in numbers if not number.met] == [
        "hello: p95",
        "CPU that a burner got, most",
    ]
