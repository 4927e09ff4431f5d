"""`FakeSession`, and the models of a function that is tested."""

from __future__ import annotations

import os
from array import array
from collections.abc import Mapping

from runtime.ai import host as hosts
from runtime.ai.engine import EngineClient, Result
from runtime.ai.llm.server import Server, checked_mode
from runtime.ai.session import Session
from runtime.frames import ModelCard
from runtime.testing import vectors
from runtime.testing.llm import ScriptedServer
from runtime.testing.model import Call, FakeModel, Replies

_DIMENSIONS, _MAX_TOKENS = 384, 512
_NOWHERE = "http://llm.invalid"
_MODE = "AI_INFERENCE_API_MODE"


class FakeSession(Session):
    """`ai.Session` with a model that is not there; the rest of it is the real one.

    Without `replies` it embeds: vectors depend on the text alone, and texts that share words
    are near each other. With `replies` it is a language model:

        FakeSession(replies=["Hello", " world"])                 these pieces, at every call
        FakeSession(replies=[["First"], ["Second", " answer"]])  one list for each call
        FakeSession(replies=["Hel", ai.IncompleteStream("…")])   breaks off after a piece
        FakeSession(replies=ai.UpstreamError(500, "…"))          fails at once
        FakeSession(replies=lambda call: [call.prompt.upper()])  whatever the test computes

    A piece is a text, or the provider's own object as a mapping. A function may also give an
    (async) generator: its next piece is asked for when the one before was taken.

    Args:
        model: its name; in `FunctionClient(sessions={"mistral": …})` the key counts.
        dimensions: length of a vector; None: the model's own, 384 for one that is not known.
        max_tokens: longer texts are cut, and `last_usage` says so; None: the model's own, or 512.
            A word or a sign counts as one, and so do a text's beginning and end.
        replies: what a language model answers.
        mode: "ollama" or "openaicompatible", where neither the session nor the call says.

    Raises:
        InvalidMode: unknown `mode`.
    """

    def __init__(
        self,
        model: str = "gte-small",
        *,
        dimensions: int | None = None,
        max_tokens: int | None = None,
        replies: Replies | None = None,
        mode: str | None = None,
    ) -> None:
        known = _known(model)
        self.fake = FakeModel(
            dimensions or known.dimensions,
            max_tokens or known.max_tokens,
            replies,
            None if mode is None else checked_mode(mode),
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


def _known(model: str) -> ModelCard:
    from runtime.engine.models import catalogue

    entry = catalogue.load().get(model)
    if entry is None:
        return ModelCard(model, _DIMENSIONS, _MAX_TOKENS)
    return ModelCard(model, entry.dimensions, entry.max_tokens)


class FakeHost(hosts.Host):
    """Knows fake models alone, and lets no call leave the process.

    Args:
        sessions: the fakes by name; one for every name; or None: a name that looks like an
            embedding model's gets a fake when it is asked for, any other is a language
            model without a script.
        closed: the environment has no say in how language models are spoken to.
    """

    def __init__(
        self, sessions: Mapping[str, FakeSession] | FakeSession | None, *, closed: bool = False
    ) -> None:
        self._every = sessions if isinstance(sessions, FakeSession) else None
        self._lenient = sessions is None
        self._closed = closed
        self._servers: dict[FakeModel, ScriptedServer] = {}
        self.sessions = dict(sessions) if isinstance(sessions, Mapping) else {}
        cards = [
            ModelCard(name, fake.fake.dimensions, fake.fake.max_tokens)
            for name, fake in self.sessions.items()
            if fake.fake.embeds
        ]
        super().__init__(cards)
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
        self.models.setdefault(model, ModelCard(model, fake.dimensions, fake.max_tokens))
        return model

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
        self._fakes = host

    async def embed(
        self, model: str, texts: list[str], *, mean_pool: bool = True, normalize: bool = True
    ) -> Result:
        """The fake vectors of some texts."""
        fake = self._fakes.fake(model)
        assert fake is not None, model
        fake.calls.append(Call(model, texts, mean_pool, normalize))
        read = [vectors.tokens(text, fake.max_tokens) for text in texts]
        data = bytearray()
        for text in texts:
            for row in _rows(text, fake, mean_pool, normalize):
                data += row.tobytes()
        counts = [len(words) for words, _ in read]
        cut = [index for index, (_, was_cut) in enumerate(read) if was_cut]
        return Result(data, fake.dimensions, [1] * len(texts) if mean_pool else counts, counts, cut)

    async def warm(self, model: str) -> None:
        """It is."""


def _rows(text: str, fake: FakeModel, mean_pool: bool, normalize: bool) -> list[array[float]]:
    most, dimensions = fake.max_tokens, fake.dimensions
    if mean_pool:
        return [vectors.of_text(text, most, dimensions, normalize=normalize)]
    return vectors.of_tokens(text, most, dimensions, normalize=normalize)
