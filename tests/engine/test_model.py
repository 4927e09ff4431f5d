"""A loaded model: batches of any lengths, a text alone, numbers that are none, 8 bits."""

from __future__ import annotations

import errno
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from safetensors.numpy import save_file

from runtime.engine import onnx as sessions
from runtime.engine.model import EmbeddingModel
from runtime.engine.models import precision as precisions
from runtime.engine.models.card import read_card
from runtime.engine.models.catalogue import EMBEDDED
from runtime.engine.models.prepare import prepare
from runtime.engine.models.sample import TEXTS
from runtime.engine.models.store import Store
from runtime.engine.models.verify import faults
from runtime.engine.scheduler import Form, Pair, Text
from runtime.engine.vectors import Rows
from runtime.errors import AIError, StartError

from . import tiny
from .architectures import RANKING
from .test_onnx import PER_TOKEN, write
from .test_reference import cosines
from .tiny import random_weights, write_folder, write_tokenizer

RAW = Form(mean_pool=False, normalize=False)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "models", {})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "mine")


def texts(*lengths: int) -> list[list[int]]:
    random = np.random.default_rng(3)
    return [random.integers(5, len(tiny.VOCABULARY), length).tolist() for length in lengths]


def answers(
    model: EmbeddingModel, batch: Sequence[Text], form: Form | None = None, *, alone: bool = False
) -> list[Rows]:
    """The rows of each text; there must be some."""
    results = model.infer(batch, [form or Form()] * len(batch), alone=alone)
    return [rows for rows in results if not isinstance(rows, Exception)]


def vectors(model: EmbeddingModel, batch: Sequence[Text]) -> Rows:
    return np.concatenate(answers(model, batch))


def opened() -> None:
    """Wait for a session that is being opened."""
    for thread in threading.enumerate():
        if thread.name == "opening":
            thread.join(10)


# --- packing ---------------------------------------------------------------------------------


def test_texts_of_any_lengths_run_together_and_do_not_touch_one_another(folder: Path, store: Store) -> None:
    model = EmbeddingModel(prepare(str(folder), store))
    batch = texts(5, 1, tiny.POSITIONS, 2, 17, 17, 3)
    assert model.packs
    for text, rows in zip(batch, answers(model, batch, RAW), strict=True):
        assert np.allclose(rows, tiny.encode(random_weights(), text), atol=1e-5)


def test_an_export_of_others_takes_one_length_at_a_time(folder: Path, store: Store) -> None:
    (folder / "model.safetensors").unlink()
    write(folder / "model.onnx", {"last_hidden_state": PER_TOKEN}, rows=len(tiny.VOCABULARY))
    assert not EmbeddingModel(prepare(str(folder), store)).packs


def test_a_cross_encoder_reads_pairs_of_any_lengths(tmp_path: Path, store: Store) -> None:
    folder = RANKING["bert"].write(tmp_path / "ranking")
    write_tokenizer(folder / "tokenizer.json")
    model = EmbeddingModel(prepare(str(folder), store))
    documents = ["a", "hello father", "words, word by word, at some length: the word"]
    batch = [Pair(pair.ids, pair.types) for pair in model.encode_pairs("hello word", documents)]
    score = Form(normalize=False)
    together = answers(model, batch, score)
    assert [rows.shape for rows in together] == [(1, 1)] * 3
    assert np.allclose(together, [answers(model, [pair], score)[0] for pair in batch], atol=1e-5)
    untyped = answers(model, [pair.ids for pair in batch], score)
    assert not np.allclose(together, untyped, atol=1e-3)


# --- alone -----------------------------------------------------------------------------------


def test_a_text_alone_gets_a_session_of_its_own_with_the_same_answer(folder: Path, store: Store) -> None:
    model = EmbeddingModel(prepare(str(folder), store), cores=2)
    (first,) = answers(model, texts(9), alone=True)  # by the usual session: the other one is opened
    opened()
    assert model.wide
    (again,) = answers(model, texts(9), alone=True)
    assert np.allclose(first, again, atol=1e-6)


def test_nothing_is_opened_for_texts_that_are_not_alone(folder: Path, store: Store) -> None:
    model = EmbeddingModel(prepare(str(folder), store), cores=2)
    answers(model, texts(9, 4))
    opened()
    assert not model.wide


def test_a_second_session_that_cannot_be_had_is_done_without(
    folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = EmbeddingModel(prepare(str(folder), store), cores=2)

    def refused(path: Path, *options: object) -> None:
        raise StartError("no memory")

    monkeypatch.setattr(sessions, "_open", refused)
    answers(model, texts(9), alone=True)
    opened()
    assert caplog.text.count("no memory") == 1
    assert len(answers(model, texts(9), alone=True)) == 1
    assert not model.wide


# --- cut -------------------------------------------------------------------------------------


def test_a_vector_is_centred_before_it_is_cut_where_the_card_says_so(folder: Path, store: Store) -> None:
    card = replace(prepare(str(folder), store), matryoshka=(4,))
    plain, centred = EmbeddingModel(card), EmbeddingModel(replace(card, centred=True))
    (whole,) = answers(plain, texts(5), Form(normalize=False))
    (kept,) = answers(centred, texts(5), Form(normalize=False, dimensions=4))
    assert np.allclose(kept, (whole - whole.mean())[:, :4], atol=1e-6)
    assert np.allclose(answers(plain, texts(5), Form(normalize=False, dimensions=4)), whole[:, :4], atol=1e-6)


def test_a_system_without_a_thread_to_open_it_is_asked_again(
    folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = EmbeddingModel(prepare(str(folder), store), cores=2)

    def no_thread(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        assert len(answers(model, texts(9), alone=True)) == 1
    assert not model.wide
    answers(model, texts(9), alone=True)
    opened()
    assert model.wide


# --- numbers that are none -------------------------------------------------------------------

POISON = 50


def test_a_text_with_broken_numbers_fails_by_itself(tmp_path: Path, store: Store) -> None:
    weights = random_weights()
    weights["embeddings.word_embeddings.weight"][POISON] = np.nan
    model = EmbeddingModel(prepare(str(write_folder(tmp_path / "m", weights)), store))
    good, bad = [2, 9, 11, 30, 7, 3], [POISON, 3, 2]
    for batch in ([bad, good], [good, bad], [good, [2, POISON, 3], good]):
        results = model.infer(batch, [Form()] * len(batch))
        for ids, result in zip(batch, results, strict=True):
            if POISON in ids:
                assert isinstance(result, AIError)
                assert "NaN" in str(result)
            else:
                assert not isinstance(result, Exception)
                assert np.allclose(result, vectors(model, [good]), atol=1e-6)


def test_a_model_that_gives_nothing_but_broken_numbers_does_not_load(tmp_path: Path, store: Store) -> None:
    weights = random_weights()
    weights["encoder.layer.1.output.dense.bias"][:] = np.inf
    folder = write_folder(tmp_path / "m", weights)
    with pytest.raises(StartError, match="NaN or infinity") as caught:
        prepare(str(folder), store)
    assert caught.value.where == str(folder)  # where it was tried is gone
    assert str(store.models_dir) not in str(caught.value)


# --- 8 bits ----------------------------------------------------------------------------------


def test_eight_bits_are_made_once_and_their_loss_is_told(
    folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = prepare(str(folder), store)
    card = prepare(str(folder), store, precision="int8")
    variant = card.variant("int8")
    assert variant is not None
    assert 0.9 < variant.least <= variant.mean < 1
    assert card == read_card(Path(card.folder))
    assert card.same_weights(plain)
    monkeypatch.setattr(precisions, "quantise", None)
    assert prepare(str(folder), store, precision="int8") == card
    assert prepare(str(folder), store) == card
    named = {file.path for file in card.files}
    assert named == {path.name for path in Path(card.folder).iterdir()} - {"card.json"}


def test_at_eight_bits_a_vector_is_the_same_in_any_batch(folder: Path, store: Store) -> None:
    card = prepare(str(folder), store, precision="int8")
    model = EmbeddingModel(card, "int8")
    batch = texts(5, 1, tiny.POSITIONS, 2, 17, 3)
    together = vectors(model, batch)
    alone = np.concatenate([vectors(model, [text]) for text in batch])
    assert cosines(together, alone).min() >= 0.99999
    exact = vectors(EmbeddingModel(card), batch)
    assert 0.98 < cosines(together, exact).min() < 1


def test_eight_bits_are_made_of_weights_that_a_backup_shares(
    folder: Path, store: Store, tmp_path: Path
) -> None:
    kept = Path(prepare(str(folder), store).folder)
    for path in kept.iterdir():
        (tmp_path / path.name).hardlink_to(path)
    assert prepare(str(folder), store, precision="int8").variant("int8")


def test_a_damaged_model_stays_damaged(folder: Path, store: Store) -> None:
    card = prepare(str(folder), store)
    path = Path(card.folder, "model.onnx.data")
    content = bytearray(path.read_bytes())
    content[5] ^= 1
    path.write_bytes(content)
    with pytest.raises(StartError, match=r"model\.onnx\.data has another content") as caught:
        prepare(str(folder), store, precision="int8")
    assert caught.value.remedy == f"functions models remove {folder}"
    assert faults(card) == faults(read_card(Path(card.folder)) or card) != []


def test_a_store_that_refuses_eight_bits_says_how_they_are_made(
    folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(precisions, "quantise", refuse)
    with pytest.raises(StartError, match="Read-only file system") as caught:
        prepare(str(folder), store, precision="int8")
    assert f"`functions models prepare {folder}`" in caught.value.remedy


def test_only_what_was_made_is_listed(folder: Path, store: Store) -> None:
    card = prepare(str(folder), store)
    Path(card.folder, "notes.txt").write_text("of somebody else")
    listed = {file.path for file in prepare(str(folder), store, precision="int8").files}
    assert listed - {file.path for file in card.files} == {"packed.int8.onnx", "packed.int8.onnx.data"}


def test_a_cross_encoders_loss_is_not_hidden_by_what_all_scores_have_in_common(
    tmp_path: Path, store: Store
) -> None:
    told = []
    for offset in (0, 100):
        source = RANKING["bert"].write(tmp_path / f"{offset}")
        weights = RANKING["bert"].weights()
        weights["classifier.bias"] += offset
        save_file(weights, source / "model.safetensors")
        write_tokenizer(source / "tokenizer.json")
        variant = prepare(str(source), store, precision="int8").variant("int8")
        assert variant is not None
        told.append(variant.mean)
    assert 0.9 < told[0] < 0.9999
    assert abs(told[0] - told[1]) < 1e-4


def test_a_failure_half_way_leaves_the_model_as_it_was(
    folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = prepare(str(folder), store)

    def broken(source: Path, target: Path) -> None:
        (target / "half").write_text("")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(precisions, "quantise", broken)
    with pytest.raises(StartError, match="No space left"):
        prepare(str(folder), store, precision="int8")
    assert read_card(Path(card.folder)) == card
    assert not [path for path in Path(card.folder).parent.iterdir() if path.name.endswith(".tmp")]


def test_an_export_of_others_has_no_eight_bits(folder: Path, store: Store) -> None:
    (folder / "model.safetensors").unlink()
    write(folder / "model.onnx", {"last_hidden_state": PER_TOKEN}, rows=len(tiny.VOCABULARY))
    with pytest.raises(StartError, match="ONNX export"):
        prepare(str(folder), store, precision="int8")


def test_a_precision_that_is_not_there_is_refused(folder: Path, store: Store) -> None:
    with pytest.raises(StartError, match="not prepared at precision 'int8'"):
        EmbeddingModel(prepare(str(folder), store), "int8")


def test_the_embedded_model_at_eight_bits_keeps_its_vectors(real_models_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(real_models_dir / EMBEDDED, tmp_path / EMBEDDED)
    card = prepare(EMBEDDED, Store(tmp_path), precision="int8")
    variant = card.variant("int8")
    assert variant is not None
    assert variant.mean >= 0.998
    assert variant.least >= 0.985
    exact, rounded = EmbeddingModel(card), EmbeddingModel(card, "int8")
    batch = [text.ids for text in exact.encode(TEXTS)]
    alone = np.concatenate([vectors(rounded, [text]) for text in batch])
    assert cosines(vectors(rounded, batch[:20]), alone[:20]).min() >= 0.99999
    assert cosines(vectors(exact, batch), alone).mean() >= 0.997


# --- files that do not fit -------------------------------------------------------------------


@pytest.mark.parametrize("share", [0, 10, 50, 99])
def test_weights_that_were_cut_off_are_named(folder: Path, store: Store, share: int) -> None:
    path = folder / "model.safetensors"
    body = path.read_bytes()
    path.write_bytes(body[: len(body) * share // 100])
    with pytest.raises(StartError, match=r"model\.safetensors") as caught:
        prepare(str(folder), store)
    assert "again" in caught.value.remedy


def test_a_header_that_was_damaged_is_named(folder: Path, store: Store) -> None:
    path = folder / "model.safetensors"
    body = bytearray(path.read_bytes())
    body[20:30] = b"\xff" * 10
    path.write_bytes(body)
    with pytest.raises(StartError, match=r"model\.safetensors"):
        prepare(str(folder), store)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("embeddings.word_embeddings.weight", (30, 8)),
        ("encoder.layer.1.attention.self.key.weight", (16, 8)),
        ("encoder.layer.0.output.dense.weight", (16, 7)),
        ("encoder.layer.0.intermediate.dense.bias", (23,)),
        ("embeddings.LayerNorm.weight", (2, 8)),
    ],
)
def test_a_tensor_of_another_shape_is_named(
    tmp_path: Path, store: Store, name: str, shape: tuple[int, ...]
) -> None:
    weights = random_weights() | {name: np.zeros(shape, np.float32)}
    with pytest.raises(StartError, match=f"'{name}' has the shape .* instead of"):
        prepare(str(write_folder(tmp_path / "m", weights)), store)


def test_weights_of_another_architecture_are_told_by_what_they_lack(tmp_path: Path, store: Store) -> None:
    folder = write_folder(tmp_path / "m", config={"model_type": "mpnet"})
    with pytest.raises(StartError, match=r"no tensor 'encoder\.relative_attention_bias\.weight'"):
        prepare(str(folder), store)


@pytest.mark.parametrize("kept", [0, 4096, -1])
def test_weights_too_short_for_their_graph_are_named(folder: Path, store: Store, kept: int) -> None:
    card = prepare(str(folder), store)
    path = Path(card.folder, "model.onnx.data")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(StartError, match=r"model\.onnx\.data"):
        EmbeddingModel(card)


def test_weights_that_are_gone_are_named(folder: Path, store: Store) -> None:
    card = prepare(str(folder), store)
    Path(card.folder, "model.onnx.data").unlink()
    with pytest.raises(StartError, match=r"model\.onnx\.data"):
        EmbeddingModel(card)


def test_a_graph_cut_off_is_named(folder: Path, store: Store) -> None:
    card = prepare(str(folder), store)
    path = Path(card.folder, "packed.onnx")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(StartError, match=r"packed\.onnx"):
        EmbeddingModel(card)
