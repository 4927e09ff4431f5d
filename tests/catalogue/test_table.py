"""`docs/conformance.md` and the tests say the same."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "conformance.md"
FIRST, LAST = 1, 77
Test = ast.FunctionDef | ast.AsyncFunctionDef
_ROW = re.compile(r"^\| (\d+) \| [^|]+ \| ([^|]+) \|$", re.MULTILINE)


def rows() -> dict[int, str]:
    """What the page says of each number."""
    return {int(number): text for number, text in _ROW.findall(PAGE.read_text(encoding="utf-8"))}


def numbers(docstring: str) -> set[int]:
    """The numbers that a docstring begins with: `1`, `1, 2` or `1, 2: why`."""
    return {int(number) for number in docstring.partition(":")[0].split(",")}


def described() -> Iterator[Test]:
    """The tests of the catalogue."""
    for path in HERE.glob("test_*.py"):
        if path == Path(__file__):
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                yield node


def is_pending(test: Test) -> bool:
    return any("mark.pending" in ast.unparse(decorator) for decorator in test.decorator_list)


def test_every_number_has_a_row_with_a_test_or_a_reason() -> None:
    assert sorted(rows()) == [*range(FIRST, LAST + 1)]
    for number, text in rows().items():
        assert text.startswith(("`test_", "not ported: ")), number


def test_the_page_names_the_tests_of_each_number() -> None:
    said = {number: set(re.findall(r"`(test_\w+)`", text)) for number, text in rows().items()}
    tests = {test.name: numbers(ast.get_docstring(test) or "") for test in described()}
    done = {number: {name for name, own in tests.items() if number in own} for number in rows()}
    assert said == done


def test_the_page_says_which_tests_are_pending() -> None:
    said = {name for text in rows().values() for name in re.findall(r"`(test_\w+)` \(pending\)", text)}
    assert said == {test.name for test in described() if is_pending(test)}
