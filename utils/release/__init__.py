"""What leaves: predictions for new texts, exported models, their cards, and their way to the hub."""
