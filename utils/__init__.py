"""The helper package behind the notebooks: they narrate, it computes."""
