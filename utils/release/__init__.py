"""What leaves: predictions for new texts, exported models, their cards, and their way to the hub."""

#: The files of an exported folder.
MODEL, FACTS, SCRIPT, CARD = "model.onnx", "export.json", "predict.py", "README.md"
