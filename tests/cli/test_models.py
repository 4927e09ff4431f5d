"""`functions models`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.cli.conftest import Run

EMBEDDED = "all-minilm-l6-v2"


def test_the_installed_model_is_listed_before_it_is_prepared(run: Run, project: Path) -> None:
    outcome = run("models", "list")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.split()[:5] == [EMBEDDED, "384", "256", "not", "prepared"]


def test_preparing_shows_its_steps_once_and_then_has_nothing_to_do(run: Run, project: Path) -> None:
    command = [sys.executable, "-m", "runtime.cli.main", "models", "prepare"]
    first = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    assert first.stderr.splitlines() == [f"converting {EMBEDDED}", f"checking {EMBEDDED}"]
    assert first.stdout == f"Model {EMBEDDED} is ready in {project / 'data/functions/models' / EMBEDDED}\n"
    assert run("models", "prepare") == (0, "", "")
    (listed,) = json.loads(run("models", "list", "--json").out)
    assert (listed["name"], listed["dimensions"], listed["prepared"]) == (EMBEDDED, 384, True)


def test_an_unknown_model_is_an_error_that_names_those_that_exist(run: Run, project: Path) -> None:
    outcome = run("models", "prepare", "nope")
    assert (outcome.code, outcome.out) == (2, "")
    assert "'nope'" in outcome.err
    assert EMBEDDED in outcome.err


def test_the_project_s_own_store_is_used(run: Run, project: Path) -> None:
    (project / "supabase").mkdir()
    (project / "supabase/config.toml").write_text('[ai]\nmodels_dir = "mine"\n')
    assert f"(in {project / 'mine'})" in run("models", "prepare", "nope").err


def test_listing_makes_no_keys_and_no_store(run: Run, project: Path) -> None:
    before = sorted(project.rglob("*"))
    run("models", "list")
    assert sorted(project.rglob("*")) == before
