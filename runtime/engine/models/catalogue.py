"""The models that we know by name, from `catalogue.toml`."""

from __future__ import annotations

import importlib.util
import tomllib
from pathlib import Path
from typing import Literal

import msgspec

EMBEDDED = "all-minilm-l6-v2"
"""The model that comes from the package index, for machines that reach no model hub."""

Pooling = Literal["mean", "cls"]
Kind = Literal["embedding", "ranking"]


class HubSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="hub"):
    """A repository on the Hugging Face hub; an empty `revision` is pinned on the first pull."""

    repository: str
    file: str
    revision: str = ""

    def __str__(self) -> str:
        return f"hub {self.repository}"


class PackageSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="package"):
    """A folder inside an installed Python package.

    Attributes:
        distribution: what pip calls it.
        package: what Python calls it.
        file: the weights, inside `folder`.
    """

    distribution: str
    package: str
    folder: str
    file: str

    def __str__(self) -> str:
        return f"package {self.distribution}"

    def find(self) -> Path | None:
        """The model's folder; None while the package is not installed. Imports nothing."""
        spec = importlib.util.find_spec(self.package)
        if spec is None or spec.origin is None:
            return None
        folder = Path(spec.origin).parent / self.folder
        return folder if (folder / self.file).is_file() else None


class KnownFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a file must be, whoever hands it out.

    Attributes:
        sha256: of its content; empty: not known.
        size: in bytes; 0: not known.
    """

    sha256: str
    size: int


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A model that we know.

    Attributes:
        sha256: of the weights as their source has them; empty: what the first pull gets is pinned.
        size: of the same file, in bytes; 0: not known.
        max_tokens: longest text, special tokens included.
        kind: what it gives, as in `card.Card`.
        prefix: put before every text, where the model's authors say so.
        query_prefix: put before a question instead.
        matryoshka: lengths that its vectors may be cut to, besides their own.
        centred: a vector's mean is subtracted from it before it is cut.
        files: other weights of the same source that may be chosen instead, by path.
        stated: where its authors say all this.
    """

    source: HubSource | PackageSource
    sha256: str = ""
    size: int = 0
    dimensions: int
    max_tokens: int
    kind: Kind = "embedding"
    pooling: Pooling = "mean"
    prefix: str = ""
    query_prefix: str = ""
    matryoshka: tuple[int, ...] = ()
    centred: bool = False
    licence: str
    files: dict[str, KnownFile] = {}
    stated: str = ""

    @property
    def pinned(self) -> bool:
        """Its weights can be told from others before they are pulled."""
        return bool(self.sha256)

    def known(self, path: str) -> KnownFile | None:
        """What this file of the source must be; None: we know nothing of it."""
        if path == self.source.file:
            return KnownFile(self.sha256, self.size)
        return self.files.get(path)


def load() -> dict[str, Entry]:
    """The catalogue that came with this version, by model name."""
    text = Path(__file__).with_name("catalogue.toml").read_text(encoding="utf-8")
    return msgspec.convert(tomllib.loads(text), dict[str, Entry])
