"""The configuration page is written from the code, and says all of it."""

from __future__ import annotations

import msgspec
import pytest

from docs import reference
from runtime.project.settings import AI, Auth, Cors, Function, Limits, Setting, Settings


def test_the_page_is_what_make_docs_writes() -> None:
    assert reference.PAGE.read_text(encoding="utf-8") == reference.page(), "run `make docs`"


@pytest.mark.parametrize("struct", [Settings, Limits, Function, Auth, Cors, AI])
def test_a_struct_says_what_each_of_its_keys_means_and_of_no_other(struct: type[Setting]) -> None:
    fields = [field for field in msgspec.structs.fields(struct) if not isinstance(field.default, Setting)]
    assert reference.meanings(struct).keys() == {field.name for field in fields}


def test_a_meaning_of_several_lines_becomes_one() -> None:
    class Example(Setting, frozen=True, kw_only=True):
        """An example.

        Attributes:
            one: begins here
                and ends here
            two: is short
        """

        one: int = 1
        two: int = 2

    assert reference.meanings(Example) == {"one": "begins here and ends here", "two": "is short"}
