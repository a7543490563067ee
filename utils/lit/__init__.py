"""Explanations in the Language Interpretability Tool (LIT)."""
