"""This version's files, on disk.

A function may want more of its files than to import them: a page beside `index.py`, a
template, a table. The project's folder may hold another version by then, or be closed to
the user that the worker runs as, so the worker writes them into its own folder.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

_NAME = "files"
_READ_ONLY = 0o400


def write(files: Mapping[str, bytes], directory: str, folder: str) -> str:
    """Write a snapshot's files, if any of them is more than a module; where they lie.

    Files keep their places relative to one another, also those that lie above `directory`.

    Args:
        files: content by path, relative to `directory`: `hello/page.html`, `../assets/logo.png`.
        directory: where the files came from; it is the answer when nothing had to be written.
        folder: the worker's own.

    Raises:
        ValueError: a path leads out of `folder`.
    """
    if all(path.endswith(".py") for path in files):
        return directory
    above = max(path.split("/").count("..") for path in files)
    kept = directory.split("/")[-above:] if above else ()
    top = os.path.join(folder, _NAME)
    home = os.path.join(top, *kept)
    for path, data in files.items():
        place = os.path.normpath(os.path.join(home, path))
        if not place.startswith(top + os.sep):
            raise ValueError(f"{path!r} does not lie below the root of {directory}")
        os.makedirs(os.path.dirname(place), exist_ok=True)
        with open(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _READ_ONLY), "wb") as file:
            file.write(data)
    return home
