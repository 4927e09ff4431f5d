"""bfloat16 under OpenVINO, where it is installed and the processor can do it."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from runtime.engine import openvino
from runtime.engine.model import EmbeddingModel
from runtime.engine.models.catalogue import EMBEDDED
from runtime.engine.models.graphs import convert
from runtime.engine.models.prepare import prepare
from runtime.engine.models.sample import TEXTS
from runtime.engine.models.store import Store
from runtime.engine.onnx import PackedModel
from runtime.engine.openvino import Bfloat16Session, _rounded
from runtime.engine.packing import packed_feeds
from runtime.engine.providers import check_bfloat16
from runtime.engine.scheduler import Form, Pair, Text
from runtime.engine.vectors import Rows
from runtime.errors import StartError

from . import tiny
from .architectures import EMBEDDING, RANKING, Architecture, pairs
from .architectures import texts as ids_of
from .test_model import answers, opened, texts, vectors
from .test_onnx import PER_TOKEN, write

RAW = Form(mean_pool=False, normalize=False)


@pytest.fixture(scope="module", autouse=True)
def fit() -> None:
    """This machine can do it; OpenVINO is no part of what the tests install."""
    try:
        check_bfloat16()
    except StartError as error:
        pytest.skip(f"bfloat16 is not tested: {error.message}")


@pytest.fixture(scope="module")
def pair(fit: None, real_models_dir: Path) -> tuple[EmbeddingModel, EmbeddingModel]:
    """MiniLM at fp32 and at bf16."""
    card = prepare(EMBEDDED, Store(real_models_dir))
    return EmbeddingModel(card), EmbeddingModel(card, "bf16", 2)


def cosines(first: Rows, second: Rows) -> Rows:
    """Of vectors of length 1."""
    return np.asarray((first * second).sum(axis=1))


def test_vectors_are_those_of_fp32_but_for_a_ten_thousandth(
    pair: tuple[EmbeddingModel, EmbeddingModel],
) -> None:
    exact, rounded = pair
    batch = [text.ids for text in exact.encode(TEXTS)]
    near = cosines(vectors(exact, batch), vectors(rounded, batch))
    assert near.min() >= 0.9999
    assert near.min() < 1, "it did not compute in 16 bits"


def test_a_text_s_vector_is_the_same_alone_and_in_a_batch(
    pair: tuple[EmbeddingModel, EmbeddingModel],
) -> None:
    _, model = pair
    batch = [text.ids for text in model.encode(TEXTS[:9])]
    alone = np.concatenate([vectors(model, [text]) for text in batch])
    assert cosines(alone, vectors(model, batch)).min() >= 0.99999


def test_threads_do_not_disturb_one_another(pair: tuple[EmbeddingModel, EmbeddingModel]) -> None:
    _, model = pair
    batches = [[text.ids] for text in model.encode(TEXTS[:16])]
    with ThreadPoolExecutor(4) as pool:
        found = [*pool.map(lambda batch: vectors(model, batch), batches * 2)]
    for batch, rows in zip(batches * 2, found, strict=True):
        assert np.allclose(rows, vectors(model, batch), atol=1e-6)


def test_a_text_alone_may_use_all_cores(pair: tuple[EmbeddingModel, EmbeddingModel]) -> None:
    _, model = pair
    (text,) = model.encode(TEXTS[:1])
    (first,) = answers(model, [text.ids], alone=True)
    opened()
    assert model.wide
    (second,) = answers(model, [text.ids], alone=True)
    assert np.allclose(first, second, atol=1e-3)


def test_every_token_has_its_row_whatever_sizes_were_rounded_up(tmp_path: Path) -> None:
    card = prepare(str(tiny.write_folder(tmp_path / "mine")), Store(tmp_path / "models", {}))
    model = EmbeddingModel(card, "bf16")
    for lengths in ([5, 1, tiny.POSITIONS], [2], [17, 17, 3, 4, 4], [8]):
        batch = texts(*lengths)
        for text, rows in zip(batch, answers(model, batch, RAW), strict=True):
            exact = tiny.encode(tiny.random_weights(), text)
            assert rows.shape == exact.shape
            assert np.allclose(rows, exact, atol=0.1)


def test_rounding_up_changes_no_shape_that_has_come_before() -> None:
    def shapes(*lengths: int) -> list[tuple[int, ...]]:
        feeds = packed_feeds([[7] * length for length in lengths], np.array(lengths))
        return [feed.shape for _, feed in sorted(_rounded(feeds).items())]

    assert shapes(9, 12, 13) == shapes(14, 10, 9)
    assert shapes(9, 12, 13) != shapes(9, 12, 33)


@pytest.mark.parametrize("name", ["nomic_bert", "mpnet"])
def test_texts_as_long_as_may_be_are_rounded_up_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(openvino, "_PRECISION", "f32")
    convert(shortened(EMBEDDING[name], 150).write(tmp_path / "source"), tmp_path, lambda done, total: None)
    ids = [int(id) for id in np.random.default_rng(1).integers(5, 100, 150)]
    exact, other = (PackedModel(tmp_path / "packed.onnx", opener=each) for each in (None, Bfloat16Session))
    for batch in ([ids], [ids, ids[:20]]):
        for one, rounded in zip(exact.run(batch), other.run(batch), strict=True):
            assert np.allclose(one, rounded, atol=1e-3)


def shortened(architecture: Architecture, longest: int) -> Architecture:
    """The same for texts of so many tokens at most."""
    config = {**architecture.config, "max_trained_positions": longest}
    name = "embeddings.position_embeddings.weight"
    tensors = {
        key: (longest + 2, *shape[1:]) if key.endswith(name) else shape
        for key, shape in architecture.tensors.items()
    }
    return Architecture(config, tensors)


def test_an_export_of_others_runs_so_too(tmp_path: Path) -> None:
    folder = tiny.write_folder(tmp_path / "mine")
    (folder / "model.safetensors").unlink()
    write(folder / "model.onnx", {"last_hidden_state": PER_TOKEN}, rows=len(tiny.VOCABULARY))
    card = prepare(str(folder), Store(tmp_path / "models", {}))
    batch = texts(4, 4)
    exact, rounded = (EmbeddingModel(card, precision) for precision in ("fp32", "bf16"))
    assert not rounded.packs
    for one, other in zip(answers(exact, batch, RAW), answers(rounded, batch, RAW), strict=True):
        assert np.allclose(one, other, rtol=0.01, atol=0.01)


def test_a_broken_graph_is_an_error_that_says_so(tmp_path: Path) -> None:
    card = prepare(str(tiny.write_folder(tmp_path / "mine")), Store(tmp_path / "models", {}))
    Path(card.folder, "packed.onnx").write_bytes(b"broken")
    with pytest.raises(StartError, match="cannot be loaded by OpenVINO"):
        EmbeddingModel(card, "bf16")


def test_it_tells_nobody_that_it_is_used(pair: tuple[EmbeddingModel, EmbeddingModel]) -> None:
    assert "openvino" in sys.modules
    assert sys.modules.get("openvino_telemetry") is None


KINDS = [*((name, False) for name in EMBEDDING), *((name, True) for name in RANKING)]


@pytest.mark.parametrize(("name", "scored"), KINDS)
def test_every_architecture_runs_as_under_onnxruntime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, scored: bool
) -> None:
    # At 32 bits, where the graph alone counts: what 16 bits lose of random weights says nothing.
    monkeypatch.setattr(openvino, "_PRECISION", "f32")
    source = (RANKING if scored else EMBEDDING)[name].write(tmp_path / "source")
    convert(source, tmp_path, lambda done, total: None)
    batch: list[Text] = [Pair(ids, types) for ids, types in pairs()] if scored else [*ids_of()]
    models = (PackedModel(tmp_path / "packed.onnx", opener=opener) for opener in (None, Bfloat16Session))
    exact, other = (np.concatenate(model.run(batch)) for model in models)
    assert exact.shape == other.shape
    assert np.allclose(exact, other, atol=1e-3)
