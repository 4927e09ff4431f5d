"""The embedded model without a server: tokenizer and onnxruntime with their defaults, text by text.

`python -m bench.direct FOLDER SECONDS` takes a JSON array of texts on stdin and prints
seconds per text, as a JSON array. What embed is compared with.
"""

from __future__ import annotations

import json
import sys
import time
from itertools import cycle
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

WARM = 10


def main() -> None:
    folder, seconds = Path(sys.argv[1]), float(sys.argv[2])
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    names = [declared.name for declared in session.get_inputs()]
    times: list[float] = []
    texts = cycle(json.load(sys.stdin))
    while sum(times[WARM:]) < seconds:
        began = time.perf_counter()
        encoding = tokenizer.encode(next(texts))
        values = {
            "input_ids": encoding.ids,
            "attention_mask": encoding.attention_mask,
            "token_type_ids": encoding.type_ids,
        }
        (hidden,) = session.run(None, {name: np.array([values[name]], dtype=np.int64) for name in names})
        vector = hidden[0].mean(axis=0)
        json.dumps((vector / np.linalg.norm(vector)).tolist())
        times.append(time.perf_counter() - began)
    print(json.dumps(times[WARM:]))


if __name__ == "__main__":
    main()
