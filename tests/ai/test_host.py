from __future__ import annotations

import os

from runtime.ai import host
from runtime.frames import ModelCard

GTE = ModelCard("gte-small", 384, 512)


def test_without_an_install_there_are_no_models() -> None:
    assert host.current().models == {}


def test_what_was_installed_is_current() -> None:
    installed = host.install([GTE], "/project")
    assert host.current() is installed
    assert installed.models == {"gte-small": GTE}
    assert installed.folder == "/project"


def test_a_restarted_engine_may_know_other_models() -> None:
    installed = host.install([GTE])
    installed.learn([ModelCard("other", 4, 8)])
    assert list(installed.models) == ["other"]


def test_a_name_is_local_when_it_is_known() -> None:
    installed = host.install([GTE], "/project")
    assert installed.find("gte-small") == "gte-small"
    assert installed.find("mistral") is None


def test_a_path_is_local_and_resolved_against_the_folder() -> None:
    installed = host.install([], "/project/functions")
    assert installed.find("./models/x") == "/project/functions/models/x"
    assert installed.find("../models/x") == "/project/models/x"
    assert installed.find("/models/../other") == "/other"


def test_without_a_folder_paths_start_in_the_working_directory() -> None:
    assert host.install([]).find("./x") == os.path.join(os.getcwd(), "x")
