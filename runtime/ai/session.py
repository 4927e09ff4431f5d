"""`ai.Session`: the one door to embeddings and LLMs."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal, overload
from weakref import WeakKeyDictionary

import msgspec

from runtime.ai import host as hosts
from runtime.ai.engine import Result
from runtime.ai.texts import checked, checked_query, grouped, vectors
from runtime.ai.timeout import Clock, Timeout, timeout_of
from runtime.errors import InvalidInput, ModelNotFound, UpstreamError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from runtime.ai.llm.chunk import Chunk
    from runtime.ai.llm.server import Server
    from runtime.ai.llm.stream import Stream

log = logging.getLogger("runtime.ai")


class Usage(msgspec.Struct, frozen=True):
    """What a call to a local model took, or one for embeddings to an LLM server.

    Attributes:
        tokens: how many were run, special tokens included.
        truncated: indices of the texts that were longer than the model's maximum and were cut;
            LLM servers do not tell.
    """

    tokens: int
    truncated: tuple[int, ...]


class Ranked(msgspec.Struct, frozen=True):
    """A document as `Session.rank` found it.

    Attributes:
        index: which of the documents it is.
        score: how well it answers the query, in numbers of the model's own: more is better.
        document: its text.
    """

    index: int
    score: float
    document: str


_usage: ContextVar[WeakKeyDictionary[Session, Usage] | None] = ContextVar("runtime.ai.usage", default=None)


class Session:
    """A model: a local one by name or folder, else one behind an LLM server.

    A name that the model store has, or a path to a model folder (starting with `/`, `./`
    or `../`), is run here. Any other name belongs to the server at `AI_INFERENCE_API_HOST`,
    spoken to in `AI_INFERENCE_API_MODE` ("ollama", the default, or "openaicompatible")
    with `AI_INFERENCE_API_KEY`. Making a session does no I/O.

    Args:
        host: an LLM server's URL; then none of those variables counts.
        api_key: sent as `Authorization: Bearer`.
        headers: more headers of every request to the LLM server, their values as secret as the
            key; an `authorization` among them wins over it.

    Raises:
        ModelNotFound: not local, and there is no LLM server.
        HostNotConfigured: the server's URL, key or headers cannot be used.
        InvalidMode: unknown `mode`.
    """

    def __init__(
        self,
        model: str,
        *,
        host: str | None = None,
        api_key: str | None = None,
        mode: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        if not isinstance(model, str) or not model:
            given = "empty" if isinstance(model, str) else type(model).__name__
            raise InvalidInput(f"The model's name is {given}: give a name such as 'gte-small'")
        self.model = model
        self._local = None if host else self._host.find(model)
        self._server = None if self._local else self._host.server(model, host, api_key, mode)
        if self._local is None and self._server is None:
            raise ModelNotFound(_not_found(model, self._host))
        if self._server is not None and headers is not None:
            self._server = self._server.sending(headers)

    @property
    def _host(self) -> hosts.Host:
        return hosts.current()

    def __repr__(self) -> str:
        return f"Session({self.model!r})"

    @property
    def last_usage(self) -> Usage | None:
        """What this session's last run took, as seen from the same task.

        None before it, for answers of LLMs, and where an LLM server tells nothing of its embeddings.
        """
        usage = _usage.get()
        return None if usage is None else usage.get(self)

    async def ready(self, *, timeout: Timeout | float | None = 60) -> None:
        """Wait until the model is loaded. An OpenAI-compatible server is not asked.

        Raises:
            AIError: as `run` does.
        """
        if self._local is not None:
            clock = Clock(timeout_of(timeout), self.model)
            await clock.bounded(self._host.engine.warm(self._local))
        elif self._server is not None and self._server.mode == "ollama":
            await self.run("", timeout=timeout)

    @overload
    async def run(
        self,
        prompt: str | Mapping[str, Any],
        *,
        stream: Literal[True],
        timeout: Timeout | float | None = 60,
        mode: str | None = None,
        **body: Any,
    ) -> Stream: ...

    @overload
    async def run(
        self,
        prompt: Mapping[str, Any],
        *,
        stream: Literal[False] = False,
        timeout: Timeout | float | None = 60,
        mode: str | None = None,
        **body: Any,
    ) -> Chunk: ...

    @overload
    async def run(
        self,
        prompt: list[str] | tuple[str, ...],
        *,
        mean_pool: Literal[True] = True,
        normalize: bool = True,
        dimensions: int | None = None,
        query: bool = False,
        timeout: Timeout | float | None = 60,
    ) -> list[list[float]]: ...

    @overload
    async def run(
        self,
        prompt: list[str] | tuple[str, ...],
        *,
        mean_pool: Literal[False],
        normalize: bool = True,
        dimensions: int | None = None,
        query: bool = False,
        timeout: Timeout | float | None = 60,
    ) -> list[list[list[float]]]: ...

    @overload
    async def run(
        self,
        prompt: object,
        *,
        mean_pool: bool = True,
        normalize: bool = True,
        dimensions: int | None = None,
        query: bool = False,
        stream: bool = False,
        timeout: Timeout | float | None = 60,
        mode: str | None = None,
        **body: Any,
    ) -> Any: ...

    async def run(
        self,
        prompt: object,
        *,
        mean_pool: bool = True,
        normalize: bool = True,
        dimensions: int | None = None,
        query: bool = False,
        stream: bool = False,
        timeout: Timeout | float | None = 60,
        mode: str | None = None,
        **body: Any,
    ) -> Any:
        """Ask the model.

        Local: a text becomes its vector (`list[float]`), a list of texts a list of vectors,
        in one trip. LLM: a string or the API's own body (a mapping) becomes the provider's
        JSON object (`Chunk`), or with `stream` a `Stream` of them. A type checker knows these
        kinds apart but for a single text, of which only the model knows what becomes of it.

        Args:
            mean_pool: one vector per text; False: one per token.
            normalize: scale each vector to length 1.
            dimensions: cut each vector to so many numbers, before it is scaled; for models that
                were trained for it (Matryoshka). None: all of them.
            query: the texts are questions: what the model's authors want before those is put
                before them, instead of what they want before documents. Most models want nothing.
            stream: give pieces as they come; wins over a `stream` in the prompt.
            timeout: seconds for the whole call, a stream's last piece included; or a `Timeout`.
            mode: this call's, instead of the session's.
            body: more fields of the API's body (`options=…`, `format=…`).

        Raises:
            InvalidInput: the prompt is nothing that this model takes.
            InputTooLarge: a text is over 512 KB.
            InferenceTimeout: a limit of `timeout` passed.
            EngineUnavailable: the inference engine is down and stayed so.
            HostUnreachable: nobody answers at the LLM server's address.
            UpstreamError: the LLM server answered with an error.
            IncompleteStream: its answer broke off.
        """
        if self._server is not None:
            from runtime.ai.llm import remote  # imports httpx2, which embedding alone does not need

            limits = timeout_of(timeout)
            if not isinstance(prompt, str | Mapping):
                raise InvalidInput(f"{_no_prompt(prompt)}; {self._pull_hint}")
            body |= {} if dimensions is None else {"dimensions": dimensions}
            body |= {"query": query} if query else {}
            return await remote.ask(
                self._server, self.model, prompt, body, stream=stream, timeout=limits, mode=mode
            )
        self._refuse_llm_options(stream=stream, mode=mode, **body)
        texts = checked(prompt)
        result = await self._embed(texts, mean_pool, normalize, dimensions, query, timeout)
        rows = vectors(result.data, result.dimensions) if texts else []
        shaped = rows if mean_pool else grouped(rows, result.rows)
        return shaped[0] if isinstance(prompt, str) else shaped

    async def embed(
        self,
        texts: Sequence[str],
        *,
        normalize: bool = True,
        dimensions: int | None = None,
        query: bool = False,
        timeout: Timeout | float | None = 60,
        mode: str | None = None,
        **body: Any,
    ) -> NDArray[np.float32]:
        """Many texts as one float32 array `[len(texts), dimensions]`. Needs numpy.

        Of an LLM server (Ollama's `/api/embed`, `/v1/embeddings`) 256 texts are asked for at a
        time, and four times that at once.

        Args:
            normalize: scale each row to length 1; False: as the model, or the server, gives it.
            dimensions: how long each row shall be; an LLM server is asked for it.
            query: as in `run`; for local models.
            timeout: seconds for the whole call, whatever the number of texts; or a `Timeout`.
            mode: this call's, instead of the session's; for LLM servers, and so is `body`.
            body: more fields of the API's body (`truncate=…`, `keep_alive=…`).

        Raises:
            UpstreamError: also when an LLM server's answer does not have a row of numbers for
                each text, all of one length.
            AIError: as `run` does.
        """
        import numpy as np

        _refuse_string(texts, "texts", "for a single one: [text]")
        given = checked(texts, "texts")
        if self._server is not None:
            _check_flags(normalize=normalize, query=query)
            self._refuse_local_options(query=query, **body)
            return await self._embed_afar(self._server, given, normalize, dimensions, timeout, mode, body)
        self._refuse_llm_options(mode=mode, **dict.fromkeys(body, True))
        result = await self._embed(given, True, normalize, dimensions, query, timeout)
        return np.frombuffer(result.data, "<f4").reshape(len(given), result.dimensions)

    async def _embed_afar(
        self,
        server: Server,
        texts: list[str],
        normalize: bool,
        dimensions: int | None,
        timeout: Timeout | float | None,
        mode: str | None,
        body: dict[str, Any],
    ) -> NDArray[np.float32]:
        from runtime.ai.llm import remote
        from runtime.tensors import normalized

        _check_number(dimensions, "dimensions")
        limits = timeout_of(timeout)
        body |= {} if dimensions is None else {"dimensions": dimensions}
        try:
            vectors = await remote.embed(
                server, self.model, texts, body, dimensions=dimensions, timeout=limits, mode=mode
            )
        except UpstreamError as error:
            if error.status == _NOT_FOUND and server.source != "host":
                error.add_note(self._pull_hint)
            raise
        self._remember(None if vectors.tokens is None else Usage(vectors.tokens, ()))
        return normalized(vectors.rows) if normalize else vectors.rows

    async def rank(
        self,
        query: str,
        documents: Sequence[str],
        *,
        top: int | None = None,
        timeout: Timeout | float | None = 60,
    ) -> list[Ranked]:
        """The documents, those first that answer the query best. For cross-encoders.

        Args:
            query: at most 16384 characters.
            top: give no more than so many; None: all.
            timeout: seconds for the whole call; only `total` of a `Timeout` counts.

        Raises:
            InvalidInput: something is no text or empty, or the model is none that ranks.
            InputTooLarge: the query is too long, or a document is over 512 KB.
            AIError: as `run` does.
        """
        name = self._local_name("rank")
        self._check_kind(name, "ranking")
        _refuse_string(documents, "documents", "there is nothing to rank in one")
        _check_number(top, "top")
        query, texts = checked_query(query), checked(documents, "documents")
        if not texts:
            return []
        clock = Clock(timeout_of(timeout), self.model)
        scores = await clock.bounded(self._host.engine.rank(name, query, texts))
        self._report("documents", scores.tokens, scores.truncated, "pairs of query and document")
        ranked = [Ranked(at, score, texts[at]) for at, score in enumerate(scores.scores)]
        return sorted(ranked, key=lambda found: -found.score)[:top]

    @overload
    async def count(self, text: str, *, timeout: Timeout | float | None = 60) -> int: ...

    @overload
    async def count(
        self, text: list[str] | tuple[str, ...], *, timeout: Timeout | float | None = 60
    ) -> list[int]: ...

    async def count(
        self, text: str | list[str] | tuple[str, ...], *, timeout: Timeout | float | None = 60
    ) -> int | list[int]:
        """How many tokens a text has for this model, or each of a list of them.

        The special tokens and the prefix that the model wants are counted, and so is what it
        would cut off for being too long. Nothing is computed but that. Raises as `run` does.
        """
        name = self._local_name("count")
        texts = checked(text, "text")
        clock = Clock(timeout_of(timeout), self.model)
        counts = await clock.bounded(self._host.engine.count(name, texts)) if texts else []
        return counts[0] if isinstance(text, str) else counts

    async def _embed(
        self,
        texts: list[str],
        mean_pool: bool,
        normalize: bool,
        dimensions: int | None,
        query: bool,
        timeout: Timeout | float | None,
    ) -> Result:
        assert self._local is not None
        host = self._host
        self._check_kind(self._local, "embedding")
        _check_number(dimensions, "dimensions")
        _check_flags(mean_pool=mean_pool, normalize=normalize, query=query)
        if not texts:
            card = host.models.get(self._local)
            return Result(bytearray(), dimensions or (card.dimensions if card else 0), [], [], [])
        clock = Clock(timeout_of(timeout), self.model)
        result = await clock.bounded(
            host.engine.embed(
                self._local,
                texts,
                mean_pool=mean_pool,
                normalize=normalize,
                dimensions=dimensions,
                query=query,
            )
        )
        self._report("texts", result.tokens, result.truncated)
        return result

    def _local_name(self, method: str) -> str:
        if self._local is None:
            who = f"{self.model!r} is an LLM server's"
            raise InvalidInput(f"{who}: {method}() works with local models; {self._pull_hint}")
        return self._local

    @property
    def _pull_hint(self) -> str:
        """What to do if it was meant to be a local model."""
        if self._server is None or self._server.source == "host":
            return "a local model's session has no `host`"
        return f"no local model has this name; if the catalogue has it: `functions models pull {self.model}`"

    def _check_kind(self, name: str, kind: str) -> None:
        """Of a folder only the engine knows it, which says the same."""
        card = self._host.models.get(name)
        if card is not None and card.kind not in (kind, ""):
            raise InvalidInput(f"{self.model!r} {_KINDS[card.kind]}")

    def _report(self, where: str, tokens: list[int], truncated: list[int], what: str = "texts") -> None:
        self._remember(Usage(sum(tokens), tuple(truncated)))
        if truncated:
            first = truncated[0]
            log.warning(
                "%s reads %d tokens: %d of %d %s were longer and cut, the first is that of %s[%d]",
                self.model,
                tokens[first],
                len(truncated),
                len(tokens),
                what,
                where,
                first,
            )

    def _remember(self, used: Usage | None) -> None:
        usage: WeakKeyDictionary[Session, Usage] = WeakKeyDictionary(_usage.get() or {})
        usage.pop(self, None)
        if used is not None:
            usage[self] = used
        _usage.set(usage)

    def _refuse_local_options(self, *, query: bool, **body: object) -> None:
        if query:
            raise InvalidInput(
                f"query=True is for local models, and {self.model!r} is an LLM server's: put what the model "
                "wants before a question into the texts"
            )
        if "input" in body:
            raise InvalidInput("the body's field 'input' is the texts: give them first, as in embed(texts)")

    def _refuse_llm_options(self, **options: object) -> None:
        name = next(
            (name for name, value in options.items() if value is not None and value is not False), None
        )
        if name is not None:
            raise InvalidInput(f"{self.model!r} is a local embedding model: it takes no {name!r}")


_NOT_FOUND = 404
_KINDS = {
    "embedding": "is an embedding model and ranks nothing: take a cross-encoder, or compare vectors of run()",
    "ranking": "ranks documents and gives no vectors: call rank(query, documents), or take another model",
}


def _refuse_string(value: object, name: str, hint: str) -> None:
    if isinstance(value, str):
        raise InvalidInput(f"{name} is str: give a list of strings ({hint})")


def _check_number(value: object, name: str) -> None:
    if value is None:
        return
    if isinstance(value, int) and abs(value) > sys.maxsize:
        raise InvalidInput(f"{name} is too large a number: give one up to {sys.maxsize}, or None")
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidInput(f"{name} is {value!r}: give a whole number of 1 or more, or None")


def _check_flags(**flags: object) -> None:
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise InvalidInput(f"{name} is {type(value).__name__}: give True or False")


def _no_prompt(prompt: object) -> str:
    embeds = " (embed() takes a list of texts)" if isinstance(prompt, list | tuple) else ""
    return f"prompt is {type(prompt).__name__}: give a string, or the API's own body as a mapping{embeds}"


def _not_found(model: str, host: hosts.Host) -> str:
    names = ", ".join(sorted(host.models)) or "none"
    return (
        f"There is no local model {model!r} (there are: {names}). If the catalogue has it (`functions models "
        f"list --all`), bring it with `functions models pull {model}`. If an LLM server has it, set "
        "AI_INFERENCE_API_HOST in supabase/functions/.env, e.g. to http://localhost:11434"
    )
