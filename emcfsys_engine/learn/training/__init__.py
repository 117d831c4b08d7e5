"""Training: plan, data, step, losses, validation, checkpoints."""
