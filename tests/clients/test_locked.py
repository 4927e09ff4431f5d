"""The clients are pinned: exact versions, with digests, from whichever registry one uses."""

from __future__ import annotations

import json
import re

from tests.clients.needs import HERE


def test_the_javascript_clients_are_pinned_and_name_no_place() -> None:
    lock = (HERE / "package-lock.json").read_text()
    assert "://" not in lock
    packages = json.loads(lock)["packages"]
    wanted = packages.pop("")["dependencies"]
    assert wanted == json.loads((HERE / "package.json").read_text())["dependencies"]
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in wanted.values())
    assert all(package["integrity"].startswith("sha512-") for package in packages.values())


def test_supabase_py_is_pinned_and_names_no_place() -> None:
    lock = (HERE / "requirements.lock").read_text()
    assert "://" not in lock
    requirements = re.split(r"\n(?=[a-z0-9])", lock.strip())
    assert any(requirement.startswith("supabase==") for requirement in requirements)
    assert all("==" in requirement and "--hash=sha256:" in requirement for requirement in requirements)
