"""A hub with small models, and stores to pull them into."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from runtime.engine.models.catalogue import Entry, HubSource, KnownFile
from runtime.engine.models.prepare import prepare
from runtime.engine.models.store import Store
from tests.engine import tiny
from tests.hub.standin import StandIn, standing_in

WEIGHTS = "model.safetensors"
GRAPH = "onnx/model.onnx"
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


def contents(folder: Path) -> dict[str, bytes]:
    """A folder as a repository."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A repository with weights that are converted, and files that nobody needs."""
    extra: tiny.Weights = {"pooler.dense.bias": np.zeros(30_000, np.float32)}
    folder = tiny.write_folder(tmp_path_factory.mktemp("hub") / "tiny", tiny.random_weights() | extra)
    unwanted = {"README.md": b"A model.", "pytorch_model.bin": b"no" * 1000}
    return contents(folder) | unwanted


@pytest.fixture(scope="session")
def graph(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A repository with an ONNX graph in two files, without the weights that it was made of."""
    base = tmp_path_factory.mktemp("graph")
    files = contents(tiny.write_folder(base / "tiny"))
    made = Path(prepare(str(base / "tiny"), Store(base / "models", {})).folder)
    pair = {f"onnx/{name}": (made / name).read_bytes() for name in ("model.onnx", "model.onnx.data")}
    files.pop(WEIGHTS)
    return files | pair | {"onnx/model_fp16.onnx": b"another"}


@pytest.fixture
def hub(
    weights: dict[str, bytes], graph: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> Iterator[StandIn]:
    """The hub that the environment names."""
    settings = ("HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "SSL_CERT_FILE", "SSL_CERT_DIR")
    for name in (*settings, *PROXIES, *map(str.lower, PROXIES)):
        monkeypatch.delenv(name, raising=False)
    with standing_in() as standin:
        standin.put("org/tiny", weights)
        standin.put("org/graph", graph)
        standin.put("org/both", weights | graph)
        monkeypatch.setenv("HF_ENDPOINT", standin.url)
        yield standin


def entry(files: dict[str, bytes], repository: str, file: str, **known: bytes) -> Entry:
    """A catalogue entry that knows the digest of a file."""
    return Entry(
        source=HubSource(repository, file),
        sha256=hashlib.sha256(files[file]).hexdigest(),
        size=len(files[file]),
        dimensions=tiny.HIDDEN,
        max_tokens=12,
        licence="MIT",
        files={path: KnownFile(hashlib.sha256(files[path]).hexdigest(), len(files[path])) for path in known},
    )


@pytest.fixture
def store(tmp_path: Path, weights: dict[str, bytes], graph: dict[str, bytes]) -> Store:
    """An empty store whose catalogue has "tiny" and "graph"."""
    entries = {"tiny": entry(weights, "org/tiny", WEIGHTS), "graph": entry(graph, "org/graph", GRAPH)}
    return Store(tmp_path / "models", entries)
