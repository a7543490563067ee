"""Our model, task, rates and batches in two other loops: Lightning's, and Hugging Face's Trainer."""
