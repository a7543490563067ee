"""Text in: tables, folds, tokens, batches."""
