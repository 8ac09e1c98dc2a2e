"""Training: the loop, its optimisers, its checkpoints, and what it says when a loss is not finite."""
