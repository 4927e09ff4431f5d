"""The pages of the documentation, cut into the blocks that tests run or check.

A comment on the line above a block says more about it than its language does:

    <!-- run: server -->             starts the server, which then runs to the end of the page
    <!-- run: docker -->             Docker's commands: checked for their syntax and their files
    <!-- run: elsewhere: REASON -->  not here, for one of `REASONS`
    <!-- file: PATH -->              the content of a file, which is written into the project
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).parents[2]
PAGES = ("README.md", *sorted(f"docs/{path.name}" for path in (REPOSITORY / "docs").glob("*.md")))

REASONS = {
    "another program": "belongs to a program that the tests do not have",
    "installs": "fetches packages, which a test of its own does from a fresh clone",
    "the tests": "runs the tests themselves",
    "the network": "needs the Internet; its parts are tested against stand-ins",
    "root": "changes the machine's services",
    "the client's machine": "runs on a machine that is none of ours",
}
"""Why a command is not run by the tests of the documentation."""

_MARK = re.compile(r"<!-- (run|file): (.+) -->")
_FENCE = re.compile(r"```(\S*)$")


class Block(NamedTuple):
    """A fenced block.

    Attributes:
        line: of its first fence, from 1.
        kind, what: of the comment above it; empty: there is none.
        answers: nothing but blank lines lies between it and the block before.
    """

    page: str
    line: int
    language: str
    text: str
    kind: str
    what: str
    answers: bool

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def is_shown_only(self) -> bool:
        """Commands that no test runs."""
        return self.what == "docker" or self.what.startswith("elsewhere: ")

    @property
    def is_output(self) -> bool:
        return self.answers and not self.kind and self.language in ("json", "text")


def blocks(page: str) -> list[Block]:
    """The blocks of a page, in its order."""
    found: list[Block] = []
    lines = (REPOSITORY / page).read_text(encoding="utf-8").split("\n")
    between: list[str] = ["start"]
    number = 0
    while number < len(lines):
        fence = _FENCE.match(lines[number])
        if fence is None:
            between.append(lines[number])
            number += 1
            continue
        end = lines.index("```", number + 1)
        said = [line for line in between if line.strip()]
        mark = _MARK.fullmatch(said[-1]) if said else None
        kind, what = mark.groups() if mark else ("", "")
        text = "\n".join(lines[number + 1 : end]) + "\n"
        found.append(Block(page, number + 1, fence[1], text, kind, what, not said and bool(found)))
        between, number = [], end + 1
    return found


def anchors(page: str) -> set[str]:
    """The anchors of a page's headings, as forges make them."""
    text = re.sub(r"^```.*?^```$", "", (REPOSITORY / page).read_text(encoding="utf-8"), flags=re.M | re.S)
    return {_slug(heading) for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}


def _slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def links(page: str) -> list[tuple[str, str]]:
    """Path (empty: this page) and anchor (empty: none) of each link that stays in the repository."""
    text = re.sub(r"^```.*?^```$", "", (REPOSITORY / page).read_text(encoding="utf-8"), flags=re.M | re.S)
    targets = re.findall(r"\]\((?!https?:)([^)\s]+)\)", text)
    return [(path, anchor) for path, _, anchor in (target.partition("#") for target in targets)]
