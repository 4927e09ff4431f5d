"""Reading the text files that people write, with errors that they can act on."""

from __future__ import annotations

import os

from runtime.errors import UsageError


def read_text(path: str, error: type[UsageError]) -> str | None:
    """The text of a file; None if there is none. A byte order mark is left out.

    Raises:
        error: the file cannot be read, or is not UTF-8.
    """
    try:
        with open(path, "rb") as file:
            content = file.read()
        return content.decode("utf-8-sig")
    except FileNotFoundError:
        if not os.path.islink(path):
            return None
        raise error(
            "is a link to a file that does not exist",
            where=path,
            remedy="restore its target, or remove the link",
        ) from None
    except OSError as reason:
        raise error(
            f"cannot be read: {reason.strerror}",
            where=path,
            remedy="make it a plain file that this user may read",
        ) from None
    except UnicodeDecodeError as reason:
        line = content.count(b"\n", 0, reason.start) + 1
        raise error("is not UTF-8", where=f"{path}:{line}", remedy="save it again as UTF-8") from None
