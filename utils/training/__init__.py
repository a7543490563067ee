"""How it learns: the loop, optimizers, schedules, averages."""
