"""What is kept: folds, checkpoints, results, and how to read them again."""
