"""Models of a known shape with random weights: they cost what real ones cost, and come from nowhere."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from bench.servers import MODEL
from bench.traffic import ROOT
from runtime.engine.models import graphs
from runtime.engine.models.card import FORMAT, read_card
from runtime.engine.models.catalogue import PackageSource, load

if TYPE_CHECKING:
    from runtime.engine.model import EmbeddingModel

GTE = "gte-shape"
"""gte-small's shape: 12 layers, 384 numbers, 12 heads, 1536 within, 30522 words, 512 tokens."""

THIN = "thin-shape"
"""One layer of it: its scratch memory is as large, and it takes a tenth of the time."""

LAYERS = {GTE: 12, THIN: 1}
HIDDEN, INNER, WORDS, LONGEST = 384, 1536, 30522, 512

_CONFIG = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "hidden_size": HIDDEN,
    "num_attention_heads": 12,
    "intermediate_size": INNER,
    "vocab_size": WORDS,
    "max_position_embeddings": LONGEST,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
}
_BESIDE = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")

Shape = tuple[int, ...]


def flops(length: int) -> int:
    """Operations on floats that a text of so many tokens takes in gte-small's shape: the products alone."""
    dense = 2 * (4 * HIDDEN * HIDDEN + 2 * HIDDEN * INNER)
    attention = 4 * length * HIDDEN
    return LAYERS[GTE] * length * (dense + attention)


@functools.cache
def data_home() -> Path:
    """A data folder with the shapes and the embedded model in its store.

    It stays where temporary files are, for the next run.
    """
    home = Path(tempfile.gettempdir(), f"functions-bench-{os.getuid()}-{_version()}")
    home.mkdir(mode=0o700, exist_ok=True)
    if home.stat().st_uid != os.getuid():
        raise SystemExit(f"{home} belongs to somebody else: set TMPDIR")
    _run(home, "prepare", MODEL)
    for name in LAYERS:
        source, kept = home / name, home / "functions" / "models" / name
        if not (source / "config.json").is_file():
            write(source, name)
        if read_card(kept) is None:
            _run(home, "pull", str(source), "--name", name)
    return home


def _version() -> str:
    # Graphs or shapes of another kind make another folder: else old ones would be measured.
    code = [Path(__file__), *sorted(Path(graphs.__file__).parent.glob("*.py"))]
    digest = hashlib.sha256(str(FORMAT).encode())
    for path in code:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def models_dir() -> Path:
    """The store of `data_home`."""
    return data_home() / "functions" / "models"


def folder(name: str) -> Path:
    """The prepared folder of a model."""
    return models_dir() / name


def model(name: str, precision: str) -> EmbeddingModel:
    """A model at a precision, in this process and on one core."""
    from runtime.engine.model import EmbeddingModel
    from runtime.engine.models.prepare import prepare
    from runtime.engine.models.store import Store

    return EmbeddingModel(prepare(name, Store(models_dir()), precision=precision), precision)


def tokenizer() -> Path:
    """The tokenizer that all of them have."""
    return folder(MODEL) / "tokenizer.json"


def write(target: Path, name: str) -> None:
    """A model folder as its authors would publish it; `config.json` last, when all else is there."""
    import numpy as np
    from safetensors.numpy import save_file

    target.mkdir(parents=True, exist_ok=True)
    package = _package()
    for beside in _BESIDE:
        if (package / beside).is_file():
            shutil.copyfile(package / beside, target / beside)
    random = np.random.default_rng(1)
    tensors = {
        tensor: (random.standard_normal(shape, np.float32) * np.float32(0.04))
        + np.float32(tensor.endswith("LayerNorm.weight"))
        for tensor, shape in _tensors(LAYERS[name])
    }
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    longest = {"max_seq_length": LONGEST, "do_lower_case": False}
    (target / "sentence_bert_config.json").write_text(json.dumps(longest))
    (target / "config.json").write_text(json.dumps(_CONFIG | {"num_hidden_layers": LAYERS[name]}))


def _package() -> Path:
    source = load()[MODEL].source
    found = source.find() if isinstance(source, PackageSource) else None
    if found is None:
        raise SystemExit(f"the package of {MODEL} is not installed: run make install")
    return found


def _tensors(layers: int) -> Iterator[tuple[str, Shape]]:
    for table, rows in (("word", WORDS), ("position", LONGEST), ("token_type", 2)):
        yield f"embeddings.{table}_embeddings.weight", (rows, HIDDEN)
    yield from _norm("embeddings")
    for layer in (f"encoder.layer.{number}" for number in range(layers)):
        for part in ("query", "key", "value"):
            yield from _linear(f"{layer}.attention.self.{part}", HIDDEN, HIDDEN)
        yield from _linear(f"{layer}.attention.output.dense", HIDDEN, HIDDEN)
        yield from _norm(f"{layer}.attention.output")
        yield from _linear(f"{layer}.intermediate.dense", INNER, HIDDEN)
        yield from _linear(f"{layer}.output.dense", HIDDEN, INNER)
        yield from _norm(f"{layer}.output")


def _linear(name: str, outputs: int, inputs: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (outputs, inputs)
    yield f"{name}.bias", (outputs,)


def _norm(name: str) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.LayerNorm.weight", (HIDDEN,)
    yield f"{name}.LayerNorm.bias", (HIDDEN,)


def _run(home: Path, *command: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "runtime.cli.main", "models", *command],
        cwd=ROOT,
        env={**os.environ, "XDG_DATA_HOME": str(home)},
        check=True,
        stdout=sys.stderr,
    )
