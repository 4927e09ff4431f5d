"""Compute what small models of every architecture answer: tests/data/architectures.json.

It needs torch, transformers, numpy and safetensors: use a virtual environment of its own.

    python -m bench.reference_architectures > tests/data/architectures.json
"""

from __future__ import annotations

import importlib
import json
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.engine.architectures import EMBEDDING, HEADS, HIDDEN, INNER, LAYERS, LONGEST, RANKING, pairs, texts

# What the library calls things that the hub's files of this architecture name otherwise.
_TRANSLATED = {
    "nomic_bert": {
        "hidden_size": HIDDEN,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "intermediate_size": INNER,
        "max_position_embeddings": LONGEST,
        "layer_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000.0},
    }
}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        embedding = {name: embedded(name, Path(folder, name)) for name in EMBEDDING}
        ranking = {name: scored(name, Path(folder, f"{name}-ranking")) for name in RANKING}
    made_with = {name: version(name) for name in ("torch", "transformers")}
    print(json.dumps({"made_with": made_with, "embedding": embedding, "ranking": ranking}))


def embedded(name: str, folder: Path) -> dict[str, list[list[float]]]:
    """The vectors of each text at either pooling, and of each token of the first."""
    torch = importlib.import_module("torch")
    EMBEDDING[name].write(folder)
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | _TRANSLATED.get(name, {})))
    model = loaded("AutoModel", folder)
    with torch.no_grad():
        hidden = [model(input_ids=torch.tensor([ids])).last_hidden_state[0] for ids in texts()]
    return {
        "mean": [rounded(rows.mean(0)) for rows in hidden],
        "cls": [rounded(rows[0]) for rows in hidden],
        "tokens": [rounded(row) for row in hidden[0]],
    }


def scored(name: str, folder: Path) -> list[float]:
    """The number that each pair of texts gets."""
    torch = importlib.import_module("torch")
    model = loaded("AutoModelForSequenceClassification", RANKING[name].write(folder))
    typed = RANKING[name].config.get("type_vocab_size", 2) == 2 and "dim" not in RANKING[name].config
    numbers = []
    for ids, types in pairs():
        given = {"input_ids": torch.tensor([ids])} | (
            {"token_type_ids": torch.tensor([types])} if typed else {}
        )
        with torch.no_grad():
            numbers += rounded(model(**given).logits[0])
    return numbers


def loaded(kind: str, folder: Path) -> Any:
    """The model, with every one of its weights from the file, at twice the precision."""
    library = getattr(importlib.import_module("transformers"), kind)
    model, told = library.from_pretrained(folder, output_loading_info=True)
    missing = [name for name in told["missing_keys"] if "pooler" not in name]
    if missing or told["unexpected_keys"] or told["mismatched_keys"]:
        raise SystemExit(f"{folder.name}: {told}")
    return model.eval().double()  # what is compared is the graph, not one rounding with another


def rounded(row: Any) -> list[float]:
    return [round(float(number), 6) for number in row]


if __name__ == "__main__":
    main()
