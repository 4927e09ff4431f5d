"""Are the files of a model still what they were when it was made?"""

from __future__ import annotations

import hashlib
from pathlib import Path

from runtime.engine.models.card import CARD, SCRATCH_CARD, Card, StoredFile


def inventory(folder: Path) -> tuple[StoredFile, ...]:
    """Every file of a model folder but its card, with its digest."""
    cards = {CARD, SCRATCH_CARD}
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in cards)
    return tuple(
        StoredFile(path.relative_to(folder).as_posix(), path.stat().st_size, sha256_of(path))
        for path in paths
    )


def faults(card: Card) -> list[str]:
    """What is wrong with the files of a prepared model, a sentence for each; empty: nothing."""
    found = (_fault(Path(card.folder), file) for file in card.files)
    return [fault for fault in found if fault]


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fault(folder: Path, file: StoredFile) -> str:
    path = folder / file.path
    try:
        size = path.stat().st_size
        if size != file.size:
            return f"{file.path} has {size} bytes instead of {file.size}"
        return "" if sha256_of(path) == file.sha256 else f"{file.path} has another content than it had"
    except FileNotFoundError:
        return f"{file.path} is missing"
    except OSError as error:
        return f"{file.path} cannot be read: {error.strerror}"
