"""The chat page in a real browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conformance.browser import EXECUTABLE, Page, browsing
from tests.conformance.ollama import Ollama
from tests.running import Server, serving

REPOSITORY = Path(__file__).parents[2]
CONFIG = "[functions.chat-page]\nverify_jwt = false\n[ai]\npreload = []\n"
ANSWER = "document.querySelector('.assistant:last-child')?.innerText.trim()"
OVER = "!document.querySelector('.writing')"
PROBLEM = "!document.querySelector('#problem').hidden"
SHIFT = 8

pytestmark = pytest.mark.skipif(EXECUTABLE is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def ollama() -> Iterator[Ollama]:
    with Ollama() as server:
        yield server


@contextmanager
def serving_chat(root: Path, llm: str) -> Iterator[Server]:
    """The page and the function that it calls, with the LLM server at a URL."""
    for name in ("chat", "chat-page"):
        shutil.copytree(REPOSITORY / "functions" / name, root / "functions" / name)
    (root / "supabase" / "functions").mkdir(parents=True)
    (root / "supabase" / "config.toml").write_text(CONFIG)
    (root / "supabase" / "functions" / ".env").write_text(f"AI_INFERENCE_API_HOST={llm}\n")
    with serving(root) as running:
        yield running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, ollama: Ollama) -> Iterator[Server]:
    with serving_chat(tmp_path_factory.mktemp("page"), ollama.url) as running:
        yield running


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browsing(tmp_path_factory.mktemp("browser")) as page:
        yield page


@pytest.fixture
def page(browser: Page, server: Server, ollama: Ollama) -> Iterator[Page]:
    """The page, freshly opened, the cursor in its field."""
    ollama.words, ollama.whole, ollama.refusal = ("One ", "two ", "three."), True, None
    start(browser, server)
    browser.complaints.clear()
    yield browser
    failed = "Failed to load resource"  # an answer with an error, which some tests want
    assert [said for said in browser.complaints if not said.startswith(failed)] == []


def start(browser: Page, server: Server) -> None:
    """Open the page as one who was never there."""
    for _ in range(2):
        browser.open("about:blank")
        browser.open(f"{server.functions}/chat-page")
        browser.evaluate("sessionStorage.clear()")
    browser.wait("document.activeElement.id === 'text'")


def ask(page: Page, text: str) -> None:
    page.type(text)
    page.press("Enter", 13)


def test_tokens_appear_as_they_arrive(page: Page, ollama: Ollama) -> None:
    ask(page, "Count to three")
    seen = ""
    for word in ("One", " two", " three."):
        ollama.allow()  # the next token exists only once the one before was seen
        seen += word
        page.wait(f"{ANSWER} === '{seen}'")
    page.wait(OVER)
    assert ollama.bodies[-1]["messages"] == [{"role": "user", "content": "Count to three"}]


def test_the_model_is_told_what_was_said_before(page: Page, ollama: Ollama) -> None:
    ollama.allow(6)
    for text in ("Count", "Again"):
        ask(page, text)
        page.wait(OVER)
    roles = ["user", "assistant", "user"]
    assert [message["role"] for message in ollama.bodies[-1]["messages"]] == roles
    assert ollama.bodies[-1]["messages"][1]["content"] == "One two three."


def test_a_conversation_outlives_a_reload_until_a_new_one_begins(page: Page, ollama: Ollama) -> None:
    ollama.allow(3)
    ask(page, "Count")
    page.wait(OVER)
    page.send("Page.reload")
    page.wait(f"{ANSWER} === 'One two three.'")
    page.evaluate("document.querySelector('#new').click()")
    page.wait("!document.querySelector('#welcome').hidden")
    assert page.evaluate("document.querySelectorAll('.message').length") == 0


@pytest.mark.parametrize("way", ["button", "escape"])
def test_stop_ends_the_answer_and_the_model_s_work(page: Page, ollama: Ollama, way: str) -> None:
    ollama.words = ("One",) + (" and more",) * 1000
    ollama.abandoned.clear()
    ask(page, "Count")
    ollama.allow()
    page.wait(f"{ANSWER}?.startsWith('One')")
    if way == "button":
        page.evaluate("document.querySelector('#stop').click()")
    else:
        page.press("Escape", 27)
    page.wait(f"{ANSWER} === 'One\\nStopped.'")
    while not ollama.abandoned.wait(0.02):  # that a connection is closed shows when one writes to it
        ollama.allow()
    ollama.words = ("Two",)
    ollama.allow()
    ask(page, "Go on")
    page.wait(f"{ANSWER} === 'Two'")


def test_shift_and_enter_begins_a_line_and_enter_sends_both(page: Page, ollama: Ollama) -> None:
    ollama.allow(3)
    page.type("One")
    page.press("Enter", 13, SHIFT)
    page.type("Two")
    page.press("Enter", 13)
    page.wait(OVER)
    assert ollama.bodies[-1]["messages"][-1]["content"] == "One\nTwo"


def test_a_suggestion_asks(page: Page, ollama: Ollama) -> None:
    ollama.allow(3)
    page.evaluate("document.querySelector('#welcome button').click()")
    page.wait(f"{ANSWER} === 'One two three.'")


def test_what_the_model_writes_is_text_and_never_markup(page: Page, ollama: Ollama) -> None:
    ollama.words = ("<img src=x onerror=alert(1)> **bold** `code`\n", "```html\n<b>x</b>\n", "```\nend")
    ollama.allow(3)
    ask(page, "Attack")
    page.wait(f"{OVER} && document.querySelector('.assistant pre')")
    assert page.evaluate("document.querySelector('.assistant pre').textContent") == "<b>x</b>"
    tags = page.evaluate("[...document.querySelectorAll('.assistant *')].map(one => one.tagName).join(' ')")
    assert tags == "DIV STRONG CODE PRE DIV"


def test_a_refusal_says_what_to_do_and_the_next_attempt_works(page: Page, ollama: Ollama) -> None:
    ollama.refusal = (404, 'model "mistral" not found, try pulling it first')
    ask(page, "Count")
    page.wait(PROBLEM)
    shown = page.evaluate("document.querySelector('#problem').innerText")
    assert "ollama pull mistral" in shown
    assert "try pulling it first" in shown
    ollama.refusal = None
    ollama.allow(3)
    page.evaluate("document.querySelector('#problem button').click()")
    page.wait(f"{ANSWER} === 'One two three.'")
    assert page.evaluate(PROBLEM) is False
    assert ollama.bodies[-1]["messages"] == [{"role": "user", "content": "Count"}]


def test_an_answer_that_breaks_off_is_replaced_by_the_next_attempt(page: Page, ollama: Ollama) -> None:
    ollama.words, ollama.whole = ("One ", "two "), False
    ollama.allow()
    ask(page, "Count")
    page.wait(f"{ANSWER} === 'One'")
    ollama.allow()
    page.wait(f"{PROBLEM} && {ANSWER}.startsWith('One')")
    assert "broke off" in page.evaluate("document.querySelector('#problem').innerText")
    ollama.words, ollama.whole = ("Two",), True
    ollama.allow()
    page.evaluate("document.querySelector('#problem button').click()")
    page.wait(f"{OVER} && {ANSWER} === 'Two'")
    assert page.evaluate("document.querySelectorAll('.assistant').length") == 1


def test_without_a_model_it_says_how_to_start_one(page: Page, tmp_path: Path) -> None:
    nobody = "http://127.0.0.1:9"  # the discard port, which no test machine serves
    with serving_chat(tmp_path, nobody) as server:
        start(page, server)
        ask(page, "Is anybody there?")
        page.wait(PROBLEM)
        assert "ollama serve" in page.evaluate("document.querySelector('#problem').innerText")


def test_a_server_that_stopped_is_told_apart_from_a_model_that_is_missing(page: Page, tmp_path: Path) -> None:
    with serving_chat(tmp_path, "http://127.0.0.1:9") as server:
        start(page, server)
    ask(page, "Is anybody there?")
    page.wait(PROBLEM)
    assert "server does not answer" in page.evaluate("document.querySelector('#problem').innerText")


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_is_wider_than_the_screen(page: Page, ollama: Ollama, width: int) -> None:
    page.send(
        "Emulation.setDeviceMetricsOverride", width=width, height=700, deviceScaleFactor=1, mobile=False
    )
    ollama.words = ("a" * 300 + "\n```\n" + "b" * 300, "\n```")
    ollama.allow(2)
    ask(page, "c" * 300)
    page.wait(f"{OVER} && document.querySelector('.assistant pre')")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate("(m => m.scrollWidth <= m.clientWidth)(document.querySelector('main'))")
