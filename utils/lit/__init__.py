"""What a model reads: explanations, and the Language Interpretability Tool."""
