"""Out of what `faulthandler` writes: what the function was doing."""

from __future__ import annotations

import faulthandler
import tempfile

from hypothesis import given
from hypothesis import strategies as st

from runtime.gateway.stacks import theirs

WRITTEN = """Thread 0x00007f01 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 324 in wait
  File "/usr/lib/python3.11/threading.py", line 1002 in _bootstrap

Current thread 0x00007f02 (most recent call first):
  File "/usr/lib/python3.11/re/__init__.py", line 166 in match
  File "/p/functions/a/index.py", line 5 in helper
  File "/p/functions/a/index.py", line 9 in handler
  File "/opt/runtime/worker/adapt.py", line 40 in _answer
"""


def test_only_the_threads_of_the_function_are_shown_and_only_down_to_its_first_call() -> None:
    assert theirs(WRITTEN, "/p/functions") == (
        "Current thread 0x00007f02 (most recent call first):\n"
        '  File "/usr/lib/python3.11/re/__init__.py", line 166 in match\n'
        '  File "/p/functions/a/index.py", line 5 in helper\n'
        '  File "/p/functions/a/index.py", line 9 in handler'
    )


def test_all_is_shown_where_no_thread_runs_the_functions_code() -> None:
    shown = theirs(WRITTEN, "/p/other")
    assert shown.splitlines()[0] == "None of its threads runs the function's code:"
    assert shown.count("hread 0x") == 2
    assert "_bootstrap" in shown
    assert theirs("", "/p/functions") == ""


def test_what_this_python_writes_is_understood() -> None:
    with tempfile.TemporaryFile() as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        written = file.read().decode()
    shown = theirs(written, __file__.rsplit("/", 1)[0])
    assert shown.splitlines()[-1].endswith("in test_what_this_python_writes_is_understood")


@given(st.text())
def test_whatever_a_function_writes_there_is_text(written: str) -> None:
    assert isinstance(theirs(written, "/p/functions"), str)
