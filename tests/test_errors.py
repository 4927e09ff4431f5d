"""One tree of errors, one table from error to HTTP."""

from __future__ import annotations

import inspect
import re
from http import HTTPStatus

import pytest

from runtime import errors
from runtime.errors import HTTP, STATUS, FunctionsError, HostError, Reported, Rule, UsageError, rule_of


def classes() -> list[type[FunctionsError]]:
    """Every error of the tree."""
    found = [value for value in vars(errors).values() if inspect.isclass(value)]
    return [kind for kind in found if issubclass(kind, FunctionsError)]


def example(kind: type[FunctionsError]) -> FunctionsError:
    if kind is Reported:
        return Reported("WORKER_ERROR", "it failed")
    if kind is errors.UpstreamError:
        return errors.UpstreamError(500, "broken")
    if issubclass(kind, UsageError):
        return kind("it is wrong")
    return kind()


each = pytest.mark.parametrize("kind", classes(), ids=lambda kind: kind.__name__)


def test_the_tree_in_the_docstring_names_the_classes() -> None:
    tree, _, _ = (errors.__doc__ or "").partition("An error that reaches")
    drawn = set(re.findall(r"\b[A-Z][a-z]\w+|\bAIError\b|\bHTTP\b", tree)) - {"Every", "HTTP"}
    unauthorized = {kind.__name__ for kind in errors.Unauthorized.__subclasses__()}
    assert drawn | unauthorized == {kind.__name__ for kind in classes()}


@each
def test_the_docstring_draws_each_class_under_its_parent(kind: type[FunctionsError]) -> None:
    """The four branches hold what they say they hold."""
    branches = (UsageError, HostError, errors.AIError, errors.ChannelError)
    if kind is not FunctionsError:
        assert sum(issubclass(kind, branch) for branch in branches) == 1


@each
def test_every_error_has_a_rule_with_a_real_status(kind: type[FunctionsError]) -> None:
    rule = rule_of(example(kind))
    assert rule.status == 546 or HTTPStatus(rule.status).value >= 400
    assert re.fullmatch(r"[A-Z]+(_[A-Z]+)*", rule.code)


@each
def test_every_error_has_words_even_when_it_is_given_none(kind: type[FunctionsError]) -> None:
    error = example(kind)
    assert error.message == str(error)
    assert error.message.strip() == error.message != ""


@each
def test_every_error_keeps_the_words_it_is_given(kind: type[FunctionsError]) -> None:
    if kind in (Reported, errors.UpstreamError):
        return
    assert kind("this very thing").message == "this very thing"


def test_the_default_message_wins_over_the_docstring_and_is_inherited() -> None:
    class WithoutDefault(FunctionsError):
        """What it says.

        And more.
        """

    assert errors.NotFound().message == "Function not found"
    assert WithoutDefault().message == "What it says."
    assert type("Child", (errors.NotFound,), {"__doc__": "Other"})().message == "Function not found"


def test_an_error_without_a_docstring_still_has_words() -> None:
    assert type("Bare", (FunctionsError,), {})().message


def test_no_two_errors_share_a_code() -> None:
    assert len(STATUS) == len(HTTP)
    assert all(rule == Rule(STATUS[rule.code], rule.code) for rule in HTTP.values())


def test_a_class_outside_the_table_answers_as_its_nearest_ancestor() -> None:
    class Special(errors.PayloadTooLarge):
        """A body that is too large in its own way."""

    assert rule_of(Special("x")) == HTTP[errors.PayloadTooLarge]
    assert rule_of(errors.InvalidJSON()) == HTTP[errors.BadRequest]
    assert rule_of(errors.FrameError()) == HTTP[FunctionsError]


def test_a_reported_failure_has_the_status_of_its_code() -> None:
    assert rule_of(Reported("INVALID_RESPONSE", "x")) == Rule(502, "INVALID_RESPONSE")
    assert rule_of(Reported("FROM_THE_FUTURE", "x")) == Rule(500, "FROM_THE_FUTURE")


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (404, "NOT_FOUND"),
        (401, "UNAUTHORIZED_NO_AUTH_HEADER"),
        (401, "UNAUTHORIZED_INVALID_JWT_FORMAT"),
        (401, "UNAUTHORIZED_LEGACY_JWT"),
        (401, "UNAUTHORIZED_ASYMMETRIC_JWT"),
        (401, "UNAUTHORIZED_JWT_EXPIRED"),
        (401, "UNAUTHORIZED_UNSUPPORTED_TOKEN_ALGORITHM"),
        (503, "BOOT_ERROR"),
        (500, "WORKER_ERROR"),
        (502, "INVALID_RESPONSE"),
        (546, "WORKER_LIMIT"),
        (504, "IDLE_TIMEOUT"),
        (413, "PAYLOAD_TOO_LARGE"),
        (431, "HEADERS_TOO_LARGE"),
        (408, "REQUEST_TIMEOUT"),
        (429, "OVERLOADED"),
        (503, "SHUTTING_DOWN"),
    ],
)
def test_the_codes_that_clients_rely_on_are_these(status: int, code: str) -> None:
    assert STATUS[code] == status


def test_a_mistake_of_the_person_at_the_terminal_says_what_where_and_the_next_step() -> None:
    error = errors.ConfigError("is no number", where="config.toml: port", remedy="write one")
    assert str(error) == "config.toml: port: is no number\n  → write one"
    assert (error.what, error.where, error.remedy) == ("is no number", "config.toml: port", "write one")
    assert str(errors.ConfigError("is empty")) == "is empty"


def test_the_exit_status_tells_usage_from_a_failed_start() -> None:
    assert {kind.exit_code for kind in classes() if issubclass(kind, UsageError)} == {2, 3}
    assert errors.StartError("x").exit_code == 3


def test_an_upstream_error_tells_whether_the_stream_had_begun() -> None:
    assert "status 503" in str(errors.UpstreamError(503, "down"))
    assert "inside the stream" in str(errors.UpstreamError(0, "down"))


@pytest.mark.parametrize(
    ("ours", "builtin"),
    [
        (errors.InvalidJSON, ValueError),
        (errors.InvalidInput, ValueError),
        (errors.InvalidMode, ValueError),
        (errors.InferenceTimeout, TimeoutError),
        (errors.HostUnreachable, ConnectionError),
    ],
)
def test_what_python_has_a_name_for_is_also_that(
    ours: type[FunctionsError], builtin: type[Exception]
) -> None:
    assert issubclass(ours, builtin)
