"""A page played from top to bottom, in a project of its own."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx2

from runtime.engine.models.catalogue import EMBEDDED
from runtime.engine.models.store import Store
from runtime.project.environment import environment_of
from runtime.project.load import load
from runtime.project.settings import Function, Options, Project
from runtime.project.snapshot import take
from tests.documentation.pages import REPOSITORY, Block
from tests.documentation.terminal import Terminal
from tests.running import Server, eventually

Version = tuple[str, Function, dict[str, str]]
"""Digest of the files, settings, environment."""

_COPIED = ("functions", "supabase", "Makefile")


class Scene:
    """What a reader of a page has: a folder, a terminal, in time a server.

    Args:
        folder: becomes the project.
        data: where models are kept.
        llm: port of the language model that stands in for Ollama and the like.
        hub: address of what stands in for the model hub.
    """

    def __init__(self, folder: Path, data: Path, llm: int, hub: str) -> None:
        self.root = folder / "project"
        self.root.mkdir()
        self.server: Server | None = None
        self._llm, self._hub = llm, hub
        self._served: Mapping[str, Any] = {}
        self._env = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(folder),
            "XDG_DATA_HOME": str(data),
            "HF_ENDPOINT": hub,
            "JWT_SECRET": "",  # a newcomer has none
            "NO_COLOR": "1",
        }
        (self.root / ".venv").symlink_to(sys.prefix)
        model = Store().package_folder(EMBEDDED)
        assert model is not None
        shutil.copytree(model, self.root / "my-model", copy_function=os.symlink)
        self.terminal = Terminal(self.root, self._env)

    def play(self, block: Block) -> str:
        """Run a block of commands, or write a file; what was printed."""
        before = self._wanted()
        if block.kind == "file":
            self._write(self.root / block.what, self._local(block.text))
            printed = ""
        elif block.what == "server":
            self._serve(block.text)
            return ""
        else:
            printed = self.terminal.run(self._local(block.text))
        self._settle(before)
        return self._public(printed)

    def newcomer(self) -> None:
        """Copy the repository's examples, and do what `make serve` does before it serves."""
        for name in _COPIED:
            source = REPOSITORY / name
            if source.is_dir():
                shutil.copytree(
                    source,
                    self.root / name,
                    ignore=shutil.ignore_patterns("__pycache__", ".env", ".functions"),
                )
            else:
                shutil.copy(source, self.root)
        command = ["make", "--no-print-directory", "-n", "-o", ".venv/.installed", "serve"]
        recipe = subprocess.run(
            command, cwd=self.root, env=self._env, capture_output=True, text=True, check=True
        )
        *preparations, last = recipe.stdout.strip().split("\n")
        assert last.split() == ["exec", ".venv/bin/functions", "serve"]
        self.terminal.run("export HF_HUB_OFFLINE=1\n" + "\n".join(preparations))  # as without a hub
        env_file = self.root / "supabase" / "functions" / ".env"
        env_file.write_text(self._local(env_file.read_text()))

    def close(self) -> None:
        self.terminal.close()
        if self.server is not None:
            self.server.stop()

    # ports: a page says 54321, Ollama's and so on, a test takes free ones

    def _local(self, text: str) -> str:
        text = re.sub(
            r"(localhost|127\.0\.0\.1|host\.docker\.internal):(11434|8080)\b", rf"127.0.0.1:{self._llm}", text
        )
        text = text.replace("https://hub.example.com", self._hub)
        return text if self.server is None else text.replace(":54321", f":{self._port}")

    def _public(self, text: str) -> str:
        text = text.replace(str(self.root), "/srv/project").replace(f":{self._llm}", ":11434")
        return text if self.server is None else text.replace(f":{self._port}", ":54321")

    @property
    def _port(self) -> str:
        assert self.server is not None
        return self.server.url.rsplit(":", 1)[1]

    # the server

    def _serve(self, command: str) -> None:
        assert self.server is None, "one server per page"
        words = shlex.split(command, comments=True)
        if words[:2] == ["make", "serve"]:
            self.newcomer()
            flags = []
        else:
            assert words[:2] == ["functions", "serve"], command
            flags = words[2:]
        os.makedirs(self.root / "functions", exist_ok=True)
        self._env |= dict(line.split("=", 1) for line in self.terminal.run("env").split("\n") if "=" in line)
        self.server = Server(self.root, *flags, env=self._env, cwd=self.root)
        self.server.wait_ready()
        self.terminal.run(f"PORT={self._port}")

    @staticmethod
    def _write(path: Path, text: str) -> None:
        """Whole at once, as editors do; an env file or a config grows by what a page adds."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix != ".py" and path.exists():
            text = path.read_text() + "\n" + text
        beside = path.with_name(path.name + ".tmp")
        beside.write_text(text)
        beside.rename(path)

    # what is saved is served a moment later, which a reader does not notice

    def _wanted(self) -> dict[str, Version]:
        """What makes the version of each function that the project on disk asks for."""
        if self.server is None:
            return {}
        project = self._project()
        return {
            name: (take(function).digest, function, environment_of(project, function, url=""))
            for name, function in project.functions.items()
            if function.enabled
        }

    def _project(self) -> Project:
        return load(Options(root=str(self.root)), self._env)

    def _settle(self, before: Mapping[str, Version]) -> None:
        """Wait until the server has taken note of what changed."""
        if self.server is None:
            return
        after, old = self._wanted(), self._served
        changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}

        def taken() -> bool:
            self._served = self._metric()
            return all(self._is_new(name, after.get(name), old) for name in changed)

        eventually(taken, f"the new version of {', '.join(changed)}")

    def _is_new(self, name: str, wanted: Version | None, old: Mapping[str, Any]) -> bool:
        now = self._served.get(name)
        if wanted is None or now is None:
            return wanted is None and now is None
        generation: str = now.get("generation", "")
        is_wanted: bool = generation.startswith(wanted[0]) and now["state"] == "ready"
        return is_wanted and generation != old.get(name, {}).get("generation")

    def _metric(self) -> Mapping[str, Any]:
        assert self.server is not None
        headers = {"authorization": f"Bearer {self._project().keys.service_role_key}"}
        answer = httpx2.get(f"{self.server.url}/_internal/metric", headers=headers).json()
        functions: Mapping[str, Any] = answer["functions"]
        return functions
