"""What a `config.json` must say for its weights to be converted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runtime.engine.models.graphs.config import Encoder, check_config
from runtime.errors import StartError

from .architectures import EMBEDDING, LONGEST


def checked(folder: Path, name: str, **changes: Any) -> Encoder:
    path = folder / "config.json"
    path.write_text(json.dumps({**EMBEDDING[name].config, **changes}))
    return check_config(path)


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("bert", {"is_decoder": True}, "is_decoder True cannot be converted"),
        ("roberta", {"is_decoder": True}, "is_decoder True cannot be converted"),
        ("nomic_bert", {"causal": True}, "causal True cannot be converted"),
        ("mpnet", {"relative_attention_num_buckets": 64}, "num_buckets 64 cannot be converted"),
        ("bert", {"quantization_config": {"load_in_8bit": True}}, "quantised .* not supported"),
        ("nomic_bert", {"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "'yarn'.* not supported"),
        ("nomic_bert", {"rope_parameters": 3}, "rope_parameters 3 is not supported"),
        (
            "nomic_bert",
            {"architectures": ["NomicBertForSequenceClassification"], "num_labels": 1},
            "scores pairs of texts, which is not supported",
        ),
    ],
)
def test_what_we_cannot_do_is_refused_and_not_called_broken(
    tmp_path: Path, name: str, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(StartError, match=words) as caught:
        checked(tmp_path, name, **changes)
    assert "broken" not in str(caught.value)
    assert "ONNX export" in caught.value.remedy


def test_a_base_of_angles_that_is_no_number_is_broken(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="broken: rope_parameters has no rope_theta"):
        checked(tmp_path, "nomic_bert", rope_parameters={"rope_type": "default"})


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("bert", ["layer_norm_eps", "hidden_act", "position_embedding_type", "is_decoder", "model_type"]),
        ("mpnet", ["relative_attention_num_buckets"]),
        (
            "nomic_bert",
            [
                "activation_function",
                "use_rms_norm",
                "prenorm",
                "causal",
                "rotary_emb_base",
                "rope_parameters",
            ],
        ),
    ],
)
def test_null_is_as_if_nothing_was_said(tmp_path: Path, name: str, keys: list[str]) -> None:
    said = checked(tmp_path, name, layer_norm_eps=1e-12)
    assert checked(tmp_path, name, **{"layer_norm_eps": 1e-12, **dict.fromkeys(keys)}) == said


def test_without_a_length_that_it_was_trained_on_nomic_has_the_usual_one(tmp_path: Path) -> None:
    assert checked(tmp_path, "nomic_bert").longest == LONGEST
    assert checked(tmp_path, "nomic_bert", max_trained_positions=None).longest == 2048
