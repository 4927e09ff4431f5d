"""The models that we know."""

from __future__ import annotations

import re

import pytest

from runtime.engine.models import catalogue
from runtime.engine.models.catalogue import EMBEDDED, Entry, HubSource, PackageSource
from runtime.engine.models.store import Store, card_of
from runtime.project.settings import DEFAULT_MODEL

ENTRIES = catalogue.load()

E5 = {"e5-small-v2", "e5-base-v2", "multilingual-e5-small"}
BY_CLS = {"bge-small-en-v1.5", "bge-base-en-v1.5", "snowflake-arctic-embed-xs", "snowflake-arctic-embed-s"}
RANKING = {"ms-marco-minilm-l6-v2", "bge-reranker-base"}
BASE = {"gte-base", "bge-base-en-v1.5", "all-mpnet-base-v2", "e5-base-v2", "nomic-embed-text-v1.5"}
PLAIN = {"gte-small", "all-minilm-l6-v2", "paraphrase-multilingual-minilm-l12-v2"}
LONGEST = {
    "all-minilm-l6-v2": 256,
    "all-mpnet-base-v2": 384,
    "paraphrase-multilingual-minilm-l12-v2": 128,
    "nomic-embed-text-v1.5": 2048,
}


def test_the_names_that_the_program_relies_on_are_in_it() -> None:
    assert {DEFAULT_MODEL, EMBEDDED} <= set(ENTRIES)
    assert isinstance(ENTRIES[EMBEDDED].source, PackageSource)


def test_it_has_the_models_that_it_promises() -> None:
    assert set(ENTRIES) == E5 | BY_CLS | RANKING | BASE | PLAIN


@pytest.mark.parametrize("name", sorted(ENTRIES))
def test_every_entry_is_whole(name: str) -> None:
    entry = ENTRIES[name]
    assert re.fullmatch("([0-9a-f]{64})?", entry.sha256)
    assert (entry.size > 0) == entry.pinned, "who knows a file's digest knows its size"
    assert entry.licence in {"MIT", "Apache-2.0"}
    assert entry.stated.startswith("https://")
    assert Store("", ENTRIES).folder(name).name == name
    assert all(0 < length < entry.dimensions for length in entry.matryoshka)


@pytest.mark.parametrize("name", sorted(ENTRIES))
def test_every_model_is_as_its_authors_say(name: str) -> None:
    card = card_of(name, ENTRIES[name])
    assert card.kind == ("ranking" if name in RANKING else "embedding")
    assert card.dimensions == (1 if name in RANKING else 768 if name in BASE else 384)
    assert card.max_tokens == LONGEST.get(name, 512)
    assert card.pooling == ("cls" if name in BY_CLS else "mean")


def test_questions_have_the_prefix_that_authors_want() -> None:
    prefixes = {name: (entry.prefix, entry.query_prefix) for name, entry in ENTRIES.items()}
    told = {name: both for name, both in prefixes.items() if any(both)}
    instruction = "Represent this sentence for searching relevant passages: "
    assert told == {
        **dict.fromkeys(E5, ("passage: ", "query: ")),
        **dict.fromkeys(BY_CLS, ("", instruction)),
        "nomic-embed-text-v1.5": ("search_document: ", "search_query: "),
    }


def test_vectors_are_centred_before_a_cut_where_authors_do_so() -> None:
    assert [name for name, entry in ENTRIES.items() if entry.centred] == ["nomic-embed-text-v1.5"]
    assert all(entry.centred for entry in ENTRIES.values() if entry.matryoshka)
    assert card_of("n", ENTRIES["nomic-embed-text-v1.5"]).centred


def test_what_is_not_pinned_comes_as_weights_that_are_converted_here() -> None:
    loose = {name: entry for name, entry in ENTRIES.items() if not entry.pinned}
    assert {entry.source.file for entry in loose.values()} == {"model.safetensors"}
    assert all(isinstance(entry.source, HubSource) for entry in loose.values())


def test_a_file_of_unknown_size_is_known_by_nothing() -> None:
    entry = Entry(source=HubSource("a/b", "model.onnx"), dimensions=3, max_tokens=9, licence="MIT")
    known = entry.known("model.onnx")
    assert known is not None
    assert (known.sha256, known.size) == ("", 0)
