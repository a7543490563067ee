"""Scores of texts, one a line, with onnxruntime and tokenizers alone: python predict.py < texts.txt"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import tokenizers

folder = Path(__file__).parent
facts = json.loads((folder / "export.json").read_text(encoding="utf-8"))
tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
tokenizer.enable_truncation(facts["max_length"])
tokenizer.enable_padding(**facts["padding"])
session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
encoded = tokenizer.encode_batch([" ".join(line.split()) for line in sys.stdin])
parts = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
inputs = {n: np.array([getattr(one, parts[n]) for one in encoded], dtype=np.int64) for n in facts["inputs"]}
for row in session.run(["scores"], inputs)[0].tolist():
    print(json.dumps(dict(zip(facts["names"], row, strict=True))))
