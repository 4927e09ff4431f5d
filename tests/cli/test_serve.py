"""`functions serve`, up to the moment at which it becomes the supervisor."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from runtime.engine import providers
from runtime.project.settings import Options, Project
from runtime.supervisor import launch as launching
from tests.cli.conftest import Run

Launched = dict[str, Any]


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Launched:
    """What `launch` was called with."""
    seen: Launched = {}

    def launch(project: Project, options: Options, environ: Mapping[str, str]) -> None:
        seen.update(project=project, options=options, environ=environ)

    monkeypatch.setattr(launching, "launch", launch)
    return seen


def test_without_flags_nothing_is_said_but_the_root(run: Run, project: Path, launched: Launched) -> None:
    assert run("serve").code == 0
    assert launched["options"] == Options(root=str(project))
    assert list(launched["project"].functions) == ["hello"]
    assert launched["environ"] == dict(os.environ)


def test_what_models_cannot_be_run_on_here_is_an_error_at_the_start(
    run: Run, project: Path, launched: Launched, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "supabase").mkdir()
    config = project / "supabase/config.toml"
    config.write_text('[ai]\nproviders = ["migraphx", "cpu"]\n')
    refused = run("serve")
    assert (refused.code, "has no migraphx" in refused.err, launched) == (3, True, {})
    assert "pip install onnxruntime-migraphx" in refused.err
    config.write_text('[ai]\nproviders = ["cpu"]\n[ai.models.mine]\nprecision = "bf16"\n')
    monkeypatch.setattr(providers, "find_spec", lambda name: None)
    refused = run("serve")
    assert (refused.code, "functions-runtime[openvino]" in refused.err, launched) == (3, True, {})


def test_every_flag_becomes_an_option(run: Run, project: Path, launched: Launched) -> None:
    (project / "mine.env").write_text("A=1\n")
    address = ("--host", "::1", "--port", "8000")
    others = ("--env-file", "mine.env", "--prefix", "", "--no-verify-jwt", "--log-format", "json")
    assert run("serve", *address, *others).code == 0
    assert launched["options"] == Options(
        root=str(project),
        env_file=str(project / "mine.env"),
        host="::1",
        port=8000,
        prefix="",
        verify_jwt=False,
        log_format="json",
    )


def test_root_may_lie_elsewhere(
    run: Run, project: Path, launched: Launched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    assert run("serve", "--root", str(project)).code == 0
    assert launched["options"].root == str(project)


def test_notes_are_printed_to_stderr(run: Run, project: Path, launched: Launched) -> None:
    (project / ".env.mine").write_text("SUPABASE_MINE=1\n")
    outcome = run("serve", "--env-file", ".env.mine")
    assert outcome.code == 0
    assert outcome.out == ""
    assert "note: " in outcome.err
    assert "SUPABASE_MINE" in outcome.err


def test_a_model_that_is_not_here_is_a_note_with_the_next_step(
    run: Run, project: Path, launched: Launched
) -> None:
    (project / "a.env").write_text("EMBEDDING_MODEL=mine\n")
    outcome = run("serve", "--env-file", "a.env")
    assert outcome.code == 0
    assert outcome.err.count("\n") == 1
    assert "the model mine is not on this machine" in outcome.err
    assert "`functions models list`" in outcome.err
    assert launched["project"].preload == ()  # to try it would say the same again, as an error
    (project / "supabase/config.toml").write_text('[ai]\npreload = ["mine"]\n')
    run("serve")
    assert launched["project"].preload == ("mine",)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("all-minilm-l6-v3", "is all-minilm-l6-v2 meant?"),
        ("./own", "a folder's name starts with ./ or /"),
        ("our-encoder", "a folder's name starts with ./ or /"),
    ],
)
def test_settings_of_a_model_that_nobody_knows_are_a_note(
    run: Run, project: Path, launched: Launched, name: str, hint: str
) -> None:
    (project / "supabase").mkdir(exist_ok=True)
    (project / "supabase/config.toml").write_text(
        f'[ai]\npreload = []\n[ai.models."{name}"]\nprecision = "int8"\n[ai.models.gte-small]\n'
    )
    notes = run("serve").err.splitlines()
    assert [note for note in notes if "counts for no model" in note and hint in note] == notes
    assert len(notes) == 1
    if name == "./own":
        (project / "own").mkdir()
        assert run("serve").err == ""


def test_a_model_that_is_here_goes_without_saying(run: Run, project: Path, launched: Launched) -> None:
    (project / "a.env").write_text("EMBEDDING_MODEL=all-minilm-l6-v2\n")
    assert run("serve", "--env-file", "a.env") == (0, "", "")


@pytest.mark.parametrize(
    ("preparation", "flags", "named"),
    [
        ({"supabase/config.toml": "[api\n"}, [], "config.toml"),
        ({"supabase/config.toml": "[edge_runtime]\nprefixx = ''\n"}, [], "prefixx"),
        ({"bad.env": "A='\n"}, ["--env-file", "bad.env"], "bad.env"),
        ({}, ["--env-file", "nowhere.env"], "nowhere.env"),
        ({}, ["--port", "65536"], "--port"),
        ({}, ["--root", "nowhere"], "nowhere"),
    ],
)
def test_what_is_wrong_with_a_project_is_found_before_it_starts(
    run: Run, project: Path, launched: Launched, preparation: dict[str, str], flags: list[str], named: str
) -> None:
    for name, text in preparation.items():
        (project / name).parent.mkdir(exist_ok=True)
        (project / name).write_text(text)
    outcome = run("serve", *flags)
    assert (outcome.code, outcome.out) == (2, "")
    assert named in outcome.err
    assert not launched


def test_a_taken_port_is_exit_code_3_and_names_the_flag(project: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        process = subprocess.run(
            [sys.executable, "-m", "runtime.cli.main", "serve", "--port", port],
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert process.returncode == 3
    assert "--port" in process.stderr
    assert "Traceback" not in process.stderr
