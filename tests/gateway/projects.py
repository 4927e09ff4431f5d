"""A project on disk, and the gateway's application over it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from runtime.gateway.app import Gateway
from runtime.gateway.auth import Authenticator
from runtime.gateway.internal import Internal
from runtime.gateway.registry import Registry
from runtime.project.load import load
from runtime.project.settings import Options, Project
from tests.gateway.house import House

SECRET = "0123456789abcdef0123456789abcdef"
URL = "http://127.0.0.1:54321"
SOURCE = "async def handler(request): ...\n"


def project(
    root: Path,
    files: Mapping[str, str],
    *,
    environ: Mapping[str, str] | None = None,
    verify_jwt: bool | None = None,
) -> Project:
    """Write files below `root` and load the project that they are."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return load(Options(root=str(root), verify_jwt=verify_jwt), {"JWT_SECRET": SECRET, **(environ or {})})


def functions(*names: str) -> dict[str, str]:
    return {f"functions/{name}/index.py": SOURCE for name in names}


class Site:
    """The application with everything behind it."""

    def __init__(self, house: House, project: Project) -> None:
        self.awaited: list[str] = []
        self.registry = Registry(house.services, URL)
        self.authenticator = Authenticator(project.keys, project.settings.auth, None)
        internal = Internal(self.registry, self.authenticator, lambda: self.awaited, lambda: True)
        self.app = Gateway(project.settings, self.registry, self.authenticator, internal, house.logbook)
