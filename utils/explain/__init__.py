"""How a trained model reads a text. No LIT is needed."""
