"""`FakeSession`, and the models of a function that is tested."""

from __future__ import annotations

import os
from array import array
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

from runtime.ai import host as hosts
from runtime.ai.engine import EngineClient, Result, Scores
from runtime.ai.llm.server import Server, checked_mode
from runtime.ai.session import Session
from runtime.errors import InvalidInput
from runtime.frames import ModelCard, Opened
from runtime.tensors import Cargo
from runtime.testing import vectors
from runtime.testing.graph import FakeInferenceSession, OwnGraphs, arrived
from runtime.testing.llm import ScriptedServer
from runtime.testing.model import Call, FakeModel, Replies

if TYPE_CHECKING:
    from numpy.typing import NDArray

Kind = Literal["embedding", "ranking"]

_DIMENSIONS, _MAX_TOKENS = 384, 512
_NOWHERE = "http://llm.invalid"
_MODE = "AI_INFERENCE_API_MODE"


class FakeSession(Session):
    """`ai.Session` with a model that is not there; the rest of it is the real one.

    Without `replies` it embeds: vectors depend on the text alone, and texts that share words
    are near each other. It ranks: documents that share words with the query come first. With
    `replies` it is a language model:

        FakeSession(replies=["Hello", " world"])                 these pieces, at every call
        FakeSession(replies=[["First"], ["Second", " answer"]])  one list for each call
        FakeSession(replies=["Hel", ai.IncompleteStream("…")])   breaks off after a piece
        FakeSession(replies=ai.UpstreamError(500, "…"))          fails at once
        FakeSession(replies=lambda call: [call.prompt.upper()])  whatever the test computes

    Its `embed()` then gives the vectors that it would give without `replies`, the way an LLM
    server does. A piece is a text, or the provider's own object as a mapping. A function may also give an
    (async) generator: its next piece is asked for when the one before was taken.

    Args:
        model: its name; in `FunctionClient(sessions={"mistral": …})` the key counts.
        dimensions: length of a vector; None: the model's own, 384 for one that is not known.
        max_tokens: longer texts are cut, and `last_usage` says so; None: the model's own, or 512.
            A word or a sign counts as one, and so do a text's beginning and end.
        kind: "embedding" or "ranking": it does this alone; None: what the catalogue says, and of
            a model that is not in it, both.
        replies: what a language model answers.
        mode: "ollama" or "openaicompatible", where neither the session nor the call says.

    Raises:
        InvalidMode: unknown `mode`.
        InvalidInput: unknown `kind`.
    """

    def __init__(
        self,
        model: str = "gte-small",
        *,
        dimensions: int | None = None,
        max_tokens: int | None = None,
        kind: Kind | None = None,
        replies: Replies | None = None,
        mode: str | None = None,
    ) -> None:
        if kind not in (None, *get_args(Kind)):
            raise InvalidInput(f"kind is {kind!r}: give 'embedding', 'ranking' or None")
        known, lengths = _known(model)
        self.fake = FakeModel(
            dimensions or known.dimensions,
            max_tokens or known.max_tokens,
            replies,
            None if mode is None else checked_mode(mode),
            kind or known.kind,
            lengths,
        )
        self._own_host = FakeHost({model: self}, closed=True)
        super().__init__(model)

    @property
    def calls(self) -> list[Call]:
        """What it was asked so far, also by sessions that a tested function made."""
        return self.fake.calls

    @property
    def _host(self) -> hosts.Host:
        return self._own_host


def _known(model: str) -> tuple[ModelCard, tuple[int, ...] | None]:
    """What the catalogue says of a model, and the lengths that its vectors may be cut to; None: to any."""
    from runtime.engine.models import catalogue

    entry = catalogue.load().get(model)
    if entry is None:
        return ModelCard(model, _DIMENSIONS, _MAX_TOKENS, ""), None
    return ModelCard(model, entry.dimensions, entry.max_tokens, entry.kind), entry.matryoshka


def _card(model: str, fake: FakeModel) -> ModelCard:
    return ModelCard(model, fake.dimensions, fake.max_tokens, fake.kind)


class FakeHost(hosts.Host):
    """Knows fake models alone, and lets no call leave the process.

    Args:
        sessions: the fakes by name; one for every name; or None: a name that looks like an
            embedding model's gets a fake when it is asked for, any other is a language
            model without a script.
        closed: the environment has no say in how language models are spoken to.
    """

    def __init__(
        self,
        sessions: Mapping[str, FakeSession | FakeInferenceSession] | FakeSession | None,
        *,
        closed: bool = False,
    ) -> None:
        self._every = sessions if isinstance(sessions, FakeSession) else None
        self._lenient = sessions is None
        self._closed = closed
        self._servers: dict[FakeModel, ScriptedServer] = {}
        given = dict(sessions) if isinstance(sessions, Mapping) else {}
        self.sessions = {name: fake for name, fake in given.items() if isinstance(fake, FakeSession)}
        self.graphs = {path: fake for path, fake in given.items() if isinstance(fake, FakeInferenceSession)}
        super().__init__(_card(name, fake.fake) for name, fake in self.sessions.items() if fake.fake.embeds)
        self.engine = FakeEngine(self)

    def fake(self, model: str) -> FakeModel | None:
        """The model of this name; None: there is none."""
        found = self.sessions.get(model) or self._every
        if found is None and self._lenient:
            found = self.sessions[model] = FakeSession(model)
        return None if found is None else found.fake

    def find(self, model: str) -> str | None:
        """The fake that embeds under this name; None: it is a language model's, or nobody's."""
        fake = self.fake(model)
        if fake is None or not fake.embeds or (self._lenient and not self._looks_local(model)):
            return None
        self.models.setdefault(model, _card(model, fake))
        return model

    def graph(self, path: str) -> list[str]:
        """The fake of this path, or of this file's name; else the project's file."""
        found = next((name for name in (path, os.path.basename(path)) if name in self.graphs), None)
        return super().graph(path) if found is None else [found]

    @property
    def root(self) -> str:
        """The folder that graphs lie in."""
        return os.path.realpath(self.folder or os.getcwd())

    @staticmethod
    def _looks_local(model: str) -> bool:
        from runtime.engine.models import catalogue

        if model.startswith(("/", "./", "../")) or model == os.environ.get("EMBEDDING_MODEL"):
            return True
        return model in catalogue.load() or ("/" in model and ":" not in model)

    def server(self, model: str, host: str | None, key: str | None, mode: str | None) -> Server | None:
        """The script's server under the address of the real one, where there is one."""
        fake = self.fake(model)
        if fake is None:
            return None
        mode = mode or fake.mode
        environ: Mapping[str, str] = {} if self._closed else os.environ
        server = Server.find(environ, host, key, mode)
        if server is None:
            server = Server(_NOWHERE, mode or environ.get(_MODE) or "ollama", "AI_INFERENCE_API_HOST")
        transport = self._servers.setdefault(fake, ScriptedServer(fake))
        return Server(server.url, server.mode, server.source, server.authorization, server.secrets, transport)


class FakeEngine(EngineClient):
    """Answers for the engine, at once."""

    def __init__(self, host: FakeHost) -> None:
        super().__init__()
        self._fakes, self._own = host, OwnGraphs()

    def _fake(self, model: str) -> FakeModel:
        fake = self._fakes.fake(model)
        assert fake is not None, model
        return fake

    async def embed(
        self,
        model: str,
        texts: list[str],
        *,
        mean_pool: bool = True,
        normalize: bool = True,
        dimensions: int | None = None,
        query: bool = False,
    ) -> Result:
        """The fake vectors of some texts: those of questions are no others."""
        fake = self._fake(model)
        call = Call(model, texts, mean_pool, normalize, dimensions=dimensions, questions=query)
        fake.calls.append(call)
        fake.check(model, dimensions)
        read = [vectors.tokens(text, fake.max_tokens) for text in texts]
        data = bytearray()
        for text in texts:
            for row in _rows(text, fake, mean_pool, normalize, dimensions):
                data += row.tobytes()
        counts = [len(words) for words, _ in read]
        cut = [index for index, (_, was_cut) in enumerate(read) if was_cut]
        return Result(
            data, dimensions or fake.dimensions, [1] * len(texts) if mean_pool else counts, counts, cut
        )

    async def rank(self, model: str, query: str, documents: list[str]) -> Scores:
        """Scores by the words that a document shares with the query."""
        fake = self._fake(model)
        fake.calls.append(Call(model, documents, query=query))
        before = len(vectors.tokens(query, fake.max_tokens)[0]) - 1
        read = [vectors.tokens(text, max(fake.max_tokens - before, 3)) for text in documents]
        scores = [vectors.score(query, words[1:-1]) for words, _ in read]
        counts = [before + len(words) for words, _ in read]
        return Scores(scores, counts, [index for index, (_, was_cut) in enumerate(read) if was_cut])

    async def count(self, model: str, texts: list[str]) -> list[int]:
        """Words and signs, the beginning and the end."""
        self._fake(model).calls.append(Call(model, texts))
        return [len(vectors.tokens(text, len(text) + 2)[0]) for text in texts]

    async def warm(self, model: str) -> None:
        """It is."""

    async def open(self, paths: list[str]) -> Opened:
        """What a graph of the project declares; a fake one declares nothing."""
        if paths[0] in self._fakes.graphs:
            return Opened(0, [], [])
        return self._own.open(paths, self._fakes.root)

    async def run(self, paths: list[str], inputs: Cargo, outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
        """What a fake graph answers; one of the project is run."""
        fake = self._fakes.graphs.get(paths[0])
        if fake is not None:
            return fake.answer(arrived(inputs), outputs)
        return await self._own.run(paths, self._fakes.root, inputs, outputs)


def _rows(
    text: str, fake: FakeModel, mean_pool: bool, normalize: bool, keep: int | None
) -> list[array[float]]:
    most, dimensions = fake.max_tokens, fake.dimensions
    if mean_pool:
        return [vectors.of_text(text, most, dimensions, normalize=normalize, keep=keep)]
    return vectors.of_tokens(text, most, dimensions, normalize=normalize, keep=keep)
