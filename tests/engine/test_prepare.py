"""Model folders become models that load; what cannot become one says why."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ml_dtypes
import numpy as np
import onnxruntime
import pytest

from runtime.engine.model import EmbeddingModel
from runtime.engine.models import prepare as module
from runtime.engine.models.catalogue import Entry, PackageSource
from runtime.engine.models.graphs import convert
from runtime.engine.models.prepare import prepare
from runtime.engine.models.store import Store
from runtime.engine.scheduler import Form
from runtime.engine.vectors import Rows
from runtime.errors import InvalidInput, ModelNotFound, StartError

from . import tiny
from .test_onnx import PER_TEXT, write
from .tiny import Weights, random_weights, write_folder

IDS = [2, 40, 9, 70, 12, 3]
RAW = Form(mean_pool=False, normalize=False)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "models", {})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "my model")


def loaded(folder: Path, store: Store) -> EmbeddingModel:
    return EmbeddingModel(prepare(str(folder), store))


def rows_of(model: EmbeddingModel, batch: Sequence[Sequence[int]], form: Form) -> list[Rows]:
    """The rows of each text; there must be some."""
    return [rows for rows in model.infer(batch, [form] * len(batch)) if not isinstance(rows, Exception)]


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def old_names(name: str) -> str:
    name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    return f"bert.{name}"


# --- conversion ------------------------------------------------------------------------------


@pytest.mark.parametrize("rename", [str, "bert.{}".format, old_names])
def test_a_converted_model_answers_by_the_book(tmp_path: Path, store: Store, rename: object) -> None:
    assert callable(rename)
    model = loaded(write_folder(tmp_path / "m", rename=rename), store)
    (hidden,) = rows_of(model, [IDS], RAW)
    assert np.allclose(hidden, tiny.encode(random_weights(), IDS), atol=1e-5)


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_weights_are_read_as_they_are(tmp_path: Path, store: Store, kind: type) -> None:
    weights: Weights = {name: array.astype(kind) for name, array in random_weights().items()}
    (hidden,) = rows_of(loaded(write_folder(tmp_path / "m", weights), store), [IDS], RAW)
    assert np.allclose(hidden, tiny.encode(weights, IDS), atol=1e-5)


def test_tensors_that_the_encoder_does_not_use_are_ignored(tmp_path: Path, store: Store) -> None:
    extra: Weights = {"pooler.dense.bias": np.zeros(3), "embeddings.position_ids": np.zeros((1, 3))}
    model = loaded(write_folder(tmp_path / "m", random_weights() | extra), store)
    assert model.dimensions == tiny.HIDDEN


def test_texts_of_a_batch_do_not_touch_one_another(folder: Path, store: Store) -> None:
    model = loaded(folder, store)
    texts = [IDS, IDS[::-1], [2, 5, 5, 5, 5, 3]]
    together = rows_of(model, texts, Form())
    for text, rows in zip(texts, together, strict=True):
        assert np.allclose(rows, rows_of(model, [text], Form())[0], atol=1e-6)


def test_masked_tokens_do_not_count(folder: Path, store: Store) -> None:
    card = prepare(str(folder), store)
    session = onnxruntime.InferenceSession(Path(card.folder, card.graph), providers=["CPUExecutionProvider"])
    ids, mask = np.array([[*IDS, 0, 0, 0]]), np.array([[1] * len(IDS) + [0] * 3])
    feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    (hidden,) = session.run(["last_hidden_state"], feeds)
    assert np.allclose(hidden[0, : len(IDS)], tiny.encode(random_weights(), IDS), atol=1e-5)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (Form(mean_pool=True, normalize=False), lambda rows: rows.mean(axis=0, keepdims=True)),
        (
            Form(mean_pool=False, normalize=True),
            lambda rows: rows / np.linalg.norm(rows, axis=1, keepdims=True),
        ),
    ],
)
def test_rows_have_the_form_that_was_asked_for(
    folder: Path, store: Store, form: Form, expected: object
) -> None:
    assert callable(expected)
    (rows,) = rows_of(loaded(folder, store), [IDS], form)
    assert np.allclose(rows, expected(tiny.encode(random_weights(), IDS)), atol=1e-5)


# --- what the folder says --------------------------------------------------------------------


def test_the_authors_maximum_counts_before_the_number_of_positions(folder: Path, store: Store) -> None:
    assert prepare(str(folder), store).max_tokens == tiny.POSITIONS
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 10**30}))
    assert prepare(str(folder), store).max_tokens == tiny.POSITIONS
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 20}))
    assert prepare(str(folder), store).max_tokens == 20
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 10}))
    assert prepare(str(folder), store).max_tokens == 10


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode": "cls"}, "cls"),
        ({}, "mean"),
    ],
)
def test_pooling_is_the_authors(folder: Path, store: Store, config: dict[str, object], pooling: str) -> None:
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
    assert prepare(str(folder), store).pooling == pooling


def test_small_letters_are_the_authors(folder: Path, store: Store) -> None:
    assert not prepare(str(folder), store).lowercase
    (folder / "sentence_bert_config.json").write_text(json.dumps({"do_lower_case": True}))
    assert prepare(str(folder), store).lowercase


def test_pooling_that_we_do_not_have_is_refused(folder: Path, store: Store) -> None:
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_max_tokens": True}))
    with pytest.raises(StartError, match="pooling_mode_max_tokens"):
        prepare(str(folder), store)


# --- keeping it ------------------------------------------------------------------------------


def test_it_is_converted_once(folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepare(str(folder), store)
    monkeypatch.setattr(module, "convert", None)
    assert prepare(str(folder), store) == first
    assert files(Path(first.folder)) == [
        "card.json",
        "model.onnx",
        "model.onnx.data",
        "packed.onnx",
        "tokenizer.json",
    ]


def test_changed_weights_are_converted_again_in_the_same_place(folder: Path, store: Store) -> None:
    first = prepare(str(folder), store)
    write_folder(folder, random_weights(seed=8))
    second = prepare(str(folder), store)
    assert (second.folder, second.sha256 != first.sha256) == (first.folder, True)
    (hidden,) = rows_of(EmbeddingModel(second), [IDS], RAW)
    assert np.allclose(hidden, tiny.encode(random_weights(seed=8), IDS), atol=1e-5)
    assert len(files(Path(first.folder).parent)) == 1


def test_many_who_want_it_at_once_convert_it_once(
    folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversions: list[Path] = []

    def counted(source: Path, target: Path, progress: Callable[[int, int], None]) -> None:
        conversions.append(target)
        convert(source, target, progress)

    monkeypatch.setattr(module, "convert", counted)
    with ThreadPoolExecutor(4) as pool:
        cards = list(pool.map(lambda _: prepare(str(folder), store), range(4)))
    assert len(conversions) == 1
    assert len(set(cards)) == 1


def test_what_a_killed_conversion_left_behind_is_swept_away(folder: Path, store: Store) -> None:
    target = Path(prepare(str(folder), store).folder)
    target.rename(target.with_name(f".{target.name}.tmp"))
    assert prepare(str(folder), store).folder == str(target)
    assert files(target.parent) == [target.name]


def test_a_failed_conversion_leaves_nothing_behind(folder: Path, store: Store) -> None:
    weights = random_weights()
    del weights["encoder.layer.1.output.dense.bias"]
    write_folder(folder, weights)
    with pytest.raises(StartError, match=r"model\.safetensors.*encoder\.layer\.1\.output\.dense\.bias"):
        prepare(str(folder), store)
    assert files(store.models_dir / ".cache") == []


def test_what_has_a_name_is_on_disk_before(
    folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a power cut only the order can be tested."""
    done: list[tuple[str, Path]] = []

    def fsync(descriptor: int) -> None:
        done.append(("sync", Path(os.readlink(f"/proc/self/fd/{descriptor}"))))

    def replace(source: Path, target: Path) -> None:
        done.extend([("from", Path(source)), ("to", Path(target))])
        rename(source, target)

    rename = os.replace
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    prepared = Path(prepare(str(folder), store).folder)
    done.clear()
    prepare(str(folder), store, precision="int8")
    named = [path for what, path in done if what == "to"]
    assert [path.name for path in named] == ["packed.int8.onnx.data", "packed.int8.onnx", "card.json"]
    for at, (what, path) in enumerate(done):
        assert what != "from" or ("sync", path) in done[:at]
    before, after = done[: done.index(("from", prepared / ".card.json"))], done[-1]
    assert before.index(("sync", prepared)) > before.index(("to", named[1]))
    assert after == ("sync", prepared)


def test_progress_grows_to_the_end(folder: Path, store: Store) -> None:
    told: list[tuple[str, int, int]] = []
    prepare(str(folder), store, lambda *progress: told.append(progress))
    done = [step[1] for step in told]
    assert len(done) > 10
    assert done == sorted(done)
    assert {total for _, _, total in told} == {done[-1]} == {(folder / "model.safetensors").stat().st_size}
    assert told[0][0].startswith("converting")
    assert told[-1][0].startswith("checking")
    assert told[-2] == (told[0][0], done[-1], done[-1])


def packaged(
    folder: Path, monkeypatch: pytest.MonkeyPatch, sha256: str = "", file: str = "model.safetensors"
) -> Entry:
    """The folder as part of an installed package."""
    (folder.parent / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(folder.parents[1]))
    source = PackageSource("dist", folder.parent.name, folder.name, file)
    return Entry(source=source, sha256=sha256, size=1, dimensions=tiny.HIDDEN, max_tokens=12, licence="MIT")


def test_a_packages_model_goes_into_the_store_under_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_folder(tmp_path / "package_a" / "weights")
    store = Store(tmp_path / "models", {"packaged": packaged(folder, monkeypatch)})
    card = prepare("packaged", store)
    assert (card.folder, card.max_tokens) == (str(store.folder("packaged")), 12)
    assert store.get("packaged") == card
    # Once prepared it needs the package no more.
    assert prepare("packaged", Store(store.models_dir, {})) == card


def test_weights_with_another_digest_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_folder(tmp_path / "package_b" / "weights")
    store = Store(tmp_path / "models", {"packaged": packaged(folder, monkeypatch, sha256="0" * 64)})
    with pytest.raises(StartError, match="sha256"):
        prepare("packaged", store)


def test_a_packages_graph_is_copied(
    tmp_path: Path, folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Path(prepare(str(folder), store).folder)
    shipped = tmp_path / "package_c" / "weights"
    shutil.copytree(made, shipped, ignore=shutil.ignore_patterns("card.json"))
    entry = packaged(shipped, monkeypatch, file="model.onnx")
    card = prepare("packaged", Store(tmp_path / "others", {"packaged": entry}))
    (hidden,) = rows_of(EmbeddingModel(card), [IDS], RAW)
    assert np.allclose(hidden, tiny.encode(random_weights(), IDS), atol=1e-5)


def test_only_the_files_of_a_graph_come_with_it(
    tmp_path: Path, folder: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Path(prepare(str(folder), store).folder)
    shipped = tmp_path / "package_d" / "weights"
    shutil.copytree(made, shipped, ignore=shutil.ignore_patterns("card.json"))
    (shipped / "model.onnx.bak").write_text("no")
    (shipped / "model.onnx.d").mkdir()
    entry = packaged(shipped, monkeypatch, file="model.onnx")
    card = prepare("packaged", Store(tmp_path / "others", {"packaged": entry}))
    assert [file.path for file in card.files] == ["model.onnx", "model.onnx.data", "tokenizer.json"]


@pytest.mark.parametrize(("rows", "words"), [(4, "does not run"), (len(tiny.VOCABULARY), "3 numbers")])
def test_a_packages_graph_that_does_not_fit_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int, words: str
) -> None:
    folder = write_folder(tmp_path / f"package_{rows}" / "weights")
    write(folder / "model.onnx", {"sentence_embedding": PER_TEXT}, rows=rows)
    entry = packaged(folder, monkeypatch, file="model.onnx")
    store = Store(tmp_path / "models", {"packaged": entry})
    with pytest.raises(StartError, match=words):
        prepare("packaged", store)
    assert files(store.models_dir) == []


# --- folders used in place -------------------------------------------------------------------


@pytest.mark.parametrize("place", ["model.onnx", "onnx/model.onnx"])
def test_a_folder_with_a_graph_is_used_where_it_is(folder: Path, store: Store, place: str) -> None:
    card = prepare(str(folder), store)
    (folder / place).parent.mkdir(exist_ok=True)
    (folder / "model.safetensors").unlink()
    for name in ("model.onnx", "model.onnx.data"):
        os.rename(Path(card.folder, name), (folder / place).with_name(name))
    in_place = prepare(str(folder), store)
    assert (in_place.folder, in_place.graph) == (str(folder), place)
    (hidden,) = rows_of(EmbeddingModel(in_place), [IDS], RAW)
    assert np.allclose(hidden, tiny.encode(random_weights(), IDS), atol=1e-5)


def test_a_graph_with_vectors_per_text_has_none_per_token(folder: Path, store: Store) -> None:
    (folder / "model.safetensors").unlink()
    write(folder / "model.onnx", {"sentence_embedding": PER_TEXT}, rows=len(tiny.VOCABULARY))
    model = loaded(folder, store)
    model.check(Form())
    with pytest.raises(InvalidInput, match="mean_pool=True"):
        model.check(RAW)
    assert rows_of(model, [[1, 2]], Form(normalize=False))[0].shape == (1, 3)


def test_a_folder_of_a_store_is_a_model_folder_too(folder: Path, store: Store) -> None:
    card = prepare(str(folder), store)
    assert prepare(card.folder, store) == card


def test_modules_that_are_done_here_may_be_listed(folder: Path, store: Store) -> None:
    modules = [
        {"idx": at, "type": f"sentence_transformers.models.{kind}"}
        for at, kind in enumerate(("Transformer", "Pooling", "Normalize"))
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    assert prepare(str(folder), store).packs


# --- refusals --------------------------------------------------------------------------------


def test_a_folder_that_is_not_there_is_no_model(tmp_path: Path, store: Store) -> None:
    with pytest.raises(ModelNotFound, match="nowhere"):
        prepare(str(tmp_path / "nowhere"), store)


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "model.safetensors"])
def test_a_missing_file_is_named(folder: Path, store: Store, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(StartError, match=name) as caught:
        prepare(str(folder), store)
    assert caught.value.remedy


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "model.safetensors"])
def test_a_broken_file_is_named(folder: Path, store: Store, name: str) -> None:
    (folder / name).write_bytes(b"\xff broken")
    with pytest.raises(StartError, match=name) as caught:
        prepare(str(folder), store)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("key", "value"),
    [("model_type", "albert"), ("hidden_act", "relu"), ("position_embedding_type", "relative_key")],
)
def test_another_architecture_is_named_with_what_is_supported(
    tmp_path: Path, store: Store, key: str, value: str
) -> None:
    folder = write_folder(tmp_path / "m", config={key: value})
    with pytest.raises(StartError, match=f"{key} '{value}'.*supported is"):
        prepare(str(folder), store)


def test_a_configuration_that_does_not_fit_is_named(tmp_path: Path, store: Store) -> None:
    folder = write_folder(tmp_path / "m", config={"num_attention_heads": "two"})
    with pytest.raises(StartError, match=r"config\.json.*num_attention_heads"):
        prepare(str(folder), store)


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.bool_, np.int64, ml_dtypes.float8_e4m3fn])
def test_weights_that_are_no_plain_floats_are_refused(tmp_path: Path, store: Store, kind: type) -> None:
    name = "encoder.layer.1.attention.self.key.weight"
    weights: Weights = random_weights()
    weights[name] = (weights[name] * 100).astype(kind)
    with pytest.raises(StartError, match=f"tensor '{name}' is of type .*, which is not supported") as caught:
        prepare(str(write_folder(tmp_path / "m", weights)), store)
    assert "F16" in caught.value.remedy


def test_weights_in_several_files_have_words_of_their_own(folder: Path, store: Store) -> None:
    os.rename(folder / "model.safetensors", folder / "model-00001-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(StartError, match="in several files, which is not supported") as caught:
        prepare(str(folder), store)
    assert "max_shard_size" in caught.value.remedy


def test_a_store_that_cannot_be_written_names_the_setting(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match="models_dir"):
        prepare(str(folder), Store(tmp_path / "file", {}))


@pytest.mark.parametrize(
    ("modules", "words"),
    [
        ('[{"type": "sentence_transformers.models.Dense"}]', "a layer 'Dense' behind its encoder"),
        ("[{}]", "Cannot be read: 'type'"),
        ("[3]", "Cannot be read"),
        ("{", "Cannot be read"),
        ('[{"type": 3}]', "Cannot be read"),
    ],
)
def test_a_layer_behind_the_encoder_is_not_left_out_in_silence(
    folder: Path, store: Store, modules: str, words: str
) -> None:
    (folder / "modules.json").write_text(modules)
    with pytest.raises(StartError, match=words) as caught:
        prepare(str(folder), store)
    assert caught.value.where == str(folder / "modules.json")
