"""Other ways to serve the same weights, each in a process of its own.

`python -m bench.rivals NAME FOLDER SOURCE` loads the model of a prepared folder (or of the folder
that it was prepared from), says so, and answers every order on stdin with an outcome on stdout.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from bench.closed import Loop, Outcome, resident
from bench.traffic import ROOT
from runtime.engine.models.prepare import WEIGHTS

Vectors = NDArray[np.float32]

PADDED, UNPADDED, NAIVE = "supabase, padded", "supabase, unpadded", "naive batches"
ENGINE = "engine alone"
OTHERS = ("sentence-transformers", "fastembed")
"""Libraries that are measured where they are installed."""

_PACKAGES = {"sentence-transformers": "sentence_transformers", "fastembed": "fastembed"}
_PAD_TO = 128
_BATCH = 32  # texts of a queue of callers
_NICE = 2  # as the engine is: else what other programs do would hit ours more
CORES = len(os.sched_getaffinity(0))


class Order(msgspec.Struct, frozen=True):
    """Texts to be served to so many clients; 0: all of them in one call; None: their vectors are wanted."""

    texts: Sequence[str]
    clients: int | None = None


class Rival:
    """A running process of this module."""

    def __init__(self, name: str, folder: Path, source: Path) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.rivals", name, str(folder), str(source)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._read()

    def serve(self, texts: Sequence[str], clients: int) -> Outcome:
        """Have the texts served."""
        return msgspec.json.decode(self._ask(Order(texts, clients)), type=Outcome)

    def vectors(self, texts: Sequence[str]) -> list[list[float]]:
        """What it makes of the texts."""
        return msgspec.json.decode(self._ask(Order(texts)), type=list[list[float]])

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()

    def _ask(self, order: Order) -> bytes:
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(order) + b"\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> bytes:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            self._process.communicate()
            raise RuntimeError(f"{self.name} has ended with status {status}")
        return line


def installed(name: str) -> bool:
    """Whether a library of `OTHERS` can be measured."""
    return importlib.util.find_spec(_PACKAGES[name]) is not None


class Method(Protocol):
    """A way to serve.

    Attributes:
        at_once: texts that one run takes at most.
        threads: runs in flight.
        divides: a call of many texts is one run: it makes batches of its own.
    """

    at_once: int
    threads: int
    divides: bool

    def run(self, texts: Sequence[str]) -> Vectors:
        """Make vectors of texts."""
        ...


class Supabase:
    """One text per run, on one thread, without arena and memory pattern; as many runs as cores.

    Args:
        padded: to 128 tokens, as the tokenizer.json of gte-small's public copies says.
    """

    at_once, threads, divides = 1, CORES, False

    def __init__(self, folder: Path, *, padded: bool) -> None:
        self._session, self._tokenizer, self._padded = _session(folder, 1, arena=False), _read(folder), padded

    def run(self, texts: Sequence[str]) -> Vectors:
        lists = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts))]
        return _padded(self._session, lists, _PAD_TO if self._padded else 0)


class Naive:
    """What waits, in the order that it came, padded to the longest; each run on all cores."""

    at_once, threads, divides = _BATCH, 1, False

    def __init__(self, folder: Path) -> None:
        self._session, self._tokenizer = _session(folder, CORES, arena=True), _read(folder)

    def run(self, texts: Sequence[str]) -> Vectors:
        lists = [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts))]
        return _padded(self._session, lists)


class SentenceTransformers:
    """The library as it comes, on the folder that the model was prepared from."""

    at_once, threads, divides = _BATCH, 1, True

    def __init__(self, source: Path) -> None:
        os.environ["HF_HUB_OFFLINE"] = "1"
        library = importlib.import_module(_PACKAGES["sentence-transformers"])
        self._model = library.SentenceTransformer(str(source), device="cpu")

    def run(self, texts: Sequence[str]) -> Vectors:
        found = self._model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(found)


class FastEmbed:
    """The library as it comes, on the graph of the prepared folder."""

    at_once, threads, divides = _BATCH, 1, True

    def __init__(self, folder: Path, source: Path) -> None:
        library = importlib.import_module(_PACKAGES["fastembed"])
        described = importlib.import_module("fastembed.common.model_description")
        # It wants the names of a published model, beside one another.
        whole = source.with_name(f"{source.name}-fastembed")
        whole.mkdir(exist_ok=True)
        for path in (*source.iterdir(), *folder.iterdir()):
            if path.is_file() and path.name != WEIGHTS:
                shutil.copyfile(path, whole / path.name)
        name = f"bench/{folder.name}"
        library.TextEmbedding.add_custom_model(
            model=name,
            pooling=described.PoolingType.MEAN,
            normalization=True,
            sources=described.ModelSource(hf=name),
            dim=384,
            model_file="model.onnx",
        )
        self._model = library.TextEmbedding(name, specific_model_path=str(whole))

    def run(self, texts: Sequence[str]) -> Vectors:
        return np.array(list(self._model.embed(list(texts))))


def _session(folder: Path, threads: int, *, arena: bool) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.enable_mem_pattern = options.enable_cpu_mem_arena = arena
    return onnxruntime.InferenceSession(
        str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
    )


def _read(folder: Path) -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(512)
    return tokenizer


def _padded(session: Any, lists: Sequence[Sequence[int]], least: int = 0) -> Vectors:
    """Run token ids as one rectangle, and make vectors of what comes out."""
    width = max(least, *map(len, lists))
    ids, mask = np.zeros((2, len(lists), width), np.int64)
    for row, tokens in enumerate(lists):
        ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
    feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    (hidden,) = session.run(["last_hidden_state"], feeds)
    there = mask[:, :, None].astype(np.float32)
    vectors: Vectors = (hidden * there).sum(1) / there.sum(1)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


_METHODS: dict[str, Callable[[Path, Path], Method]] = {
    PADDED: lambda folder, _: Supabase(folder, padded=True),
    UNPADDED: lambda folder, _: Supabase(folder, padded=False),
    NAIVE: lambda folder, _: Naive(folder),
    "sentence-transformers": lambda _, source: SentenceTransformers(source),
    "fastembed": FastEmbed,
}


class Served(Protocol):
    """A process's way to serve."""

    def serve(self, texts: Sequence[str], clients: int) -> tuple[float, list[float]]:
        """Seconds in all, and of each text; of a call of all of them, none."""
        ...

    def vectors(self, texts: Sequence[str]) -> Vectors:
        """What it makes of the texts."""
        ...


class Looped:
    """Clients in front of a method."""

    def __init__(self, method: Method) -> None:
        self._method = method

    def serve(self, texts: Sequence[str], clients: int) -> tuple[float, list[float]]:
        """Seconds in all, and of each text; of a call of all of them, none."""
        method = self._method
        at_once = method.at_once if clients or not method.divides else len(texts)
        loop = Loop(method.run, texts, at_once, method.threads)
        took = loop.go(clients or len(texts))
        return took, loop.waits if clients else []

    def vectors(self, texts: Sequence[str]) -> Vectors:
        """What it makes of the texts, in runs of its size."""
        size = self._method.at_once
        runs = [self._method.run(texts[start : start + size]) for start in range(0, len(texts), size)]
        return np.concatenate(runs)


class Engine:
    """Our own engine in one process: no server, no sockets."""

    def __init__(self, folder: Path) -> None:
        from runtime.engine.embedder import Embedder
        from runtime.engine.memory import return_large_blocks
        from runtime.engine.models.store import Store
        from runtime.engine.registry import Registry

        return_large_blocks()  # as the engine's process does
        self._name = folder.name
        registry = Registry(Store(folder.parent), cores=CORES)
        self._embedder = Embedder(registry, CORES)
        self._runner = asyncio.Runner()
        self._runner.run(self._embed(["A text of a few words"]))

    def serve(self, texts: Sequence[str], clients: int) -> tuple[float, list[float]]:
        """Seconds in all, and of each text; of a call of all of them, none."""
        return self._runner.run(self._clients(texts, clients) if clients else self._bulk(texts))

    def vectors(self, texts: Sequence[str]) -> Vectors:
        """What it makes of the texts."""
        rows = self._runner.run(self._embed(texts))
        return np.frombuffer(rows, np.float32).reshape(len(texts), -1)

    async def _embed(self, texts: Sequence[str]) -> bytes:
        from runtime.engine.scheduler import Form

        async with self._embedder.using(self._name) as model:
            with self._embedder.room(texts) as room:
                parts = self._embedder.embed(model, texts, Form(), room)
                return b"".join([b"".join(part.pieces) async for part in parts])

    async def _bulk(self, texts: Sequence[str]) -> tuple[float, list[float]]:
        began = time.perf_counter()
        await self._embed(texts)
        return time.perf_counter() - began, []

    async def _clients(self, texts: Sequence[str], clients: int) -> tuple[float, list[float]]:
        waits = [0.0] * len(texts)
        left = iter(enumerate(texts))

        async def client() -> None:
            for place, text in left:
                began = time.perf_counter()
                await self._embed([text])
                waits[place] = time.perf_counter() - began

        began = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(clients)))
        return time.perf_counter() - began, waits


def main() -> None:
    name, folder, source = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    os.nice(_NICE)
    answers = sys.stdout.buffer
    sys.stdout = sys.stderr  # what libraries print is no answer
    served: Served = Engine(folder) if name == ENGINE else Looped(_METHODS[name](folder, source))
    answers.write(b"ready\n")
    answers.flush()
    for line in sys.stdin.buffer:
        answers.write(msgspec.json.encode(_answer(served, msgspec.json.decode(line, type=Order))) + b"\n")
        answers.flush()


def _answer(served: Served, order: Order) -> Outcome | list[list[float]]:
    if order.clients is None:
        rows: list[list[float]] = served.vectors(order.texts).tolist()
        return rows
    before = time.process_time()
    took, waits = served.serve(order.texts, order.clients)
    return Outcome(took, waits, time.process_time() - before, resident(os.getpid()))


if __name__ == "__main__":
    main()
