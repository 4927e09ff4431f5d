"""What is put before texts, and what before questions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from runtime.engine.model import EmbeddingModel
from runtime.engine.models.card import PROMPTS, describe
from runtime.engine.models.prepare import prepare
from runtime.engine.models.store import Store
from runtime.engine.tokenizer import TextTokenizer
from runtime.errors import StartError

from .process import running_engine
from .tiny import write_folder

E5 = {"prompts": {"query": "father ", "document": "word "}, "default_prompt_name": None}


@pytest.mark.parametrize(
    ("told", "prefixes"),
    [
        (None, ("", "")),
        (E5, ("word ", "father ")),
        ({"prompts": {"query": "q: ", "document": ""}}, ("", "q: ")),
        ({"prompts": {"query": "q: ", "passage": "p:\n"}}, ("p:\n", "q: ")),
        ({"prompts": {"sts": "s: "}, "default_prompt_name": "sts"}, ("s: ", "")),
        ({"prompts": {"query": "", "document": "p: "}}, ("p: ", "")),
        ({"prompts": {"query": 7}}, ("", "")),
        ({"prompts": ["query"]}, ("", "")),
    ],
)
def test_a_folder_says_them_as_sentence_transformers_has_it(
    told: object, prefixes: tuple[str, str], tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / "mine")
    if told is not None:
        (folder / PROMPTS).write_text(json.dumps(told))
    card = describe(folder, "mine")
    assert (card.prefix, card.query_prefix) == prefixes


def test_a_question_has_its_own_and_without_one_none(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "mine") / "tokenizer.json"
    plain, both, one = (TextTokenizer(path, 32, *said) for said in ((), ("word ", "father "), ("word ",)))

    def ids(text: str) -> list[int]:
        return plain.encode([text])[0].ids

    assert both.encode(["hello"])[0].ids == ids("word hello")
    assert both.encode(["hello"], query=True)[0].ids == ids("father hello")
    assert one.encode(["hello"], query=True)[0].ids == ids("hello")
    assert plain.encode(["hello"], query=True)[0].ids == ids("hello")
    assert both.count(["hello"]) == [len(ids("word hello"))]


def test_prompts_that_pooling_leaves_out_are_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "mine")
    pooling = folder / "1_Pooling" / "config.json"
    pooling.parent.mkdir()
    pooling.write_text(json.dumps({"include_prompt": False}))
    assert describe(folder, "mine").pooling == "mean"
    (folder / PROMPTS).write_text(json.dumps({"prompts": {"query": "q: "}}))
    with pytest.raises(StartError, match="include_prompt") as caught:
        describe(folder, "mine")
    assert caught.value.where == str(pooling)


@pytest.mark.anyio
async def test_the_engine_tells_questions_from_texts(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "mine")
    (folder / PROMPTS).write_text(json.dumps(E5))
    prepare(str(folder), Store(tmp_path / "models"))
    plain = EmbeddingModel(prepare(str(write_folder(tmp_path / "plain")), Store(tmp_path / "models")))
    (wanted,) = plain.encode(["father hello"])
    with running_engine(tmp_path / "models") as engine:
        async with engine.connect() as client:
            asked = await client.embed(str(folder), ["hello"], query=True)
            told = await client.embed(str(folder), ["hello"])
            same = await client.embed(str(tmp_path / "plain"), ["father hello"])
    assert asked.end.tokens == [len(wanted.ids)]
    assert np.allclose(asked.rows, same.rows, atol=1e-6)
    assert not np.allclose(asked.rows, told.rows, atol=1e-3)
