"""Training: state, objective, one pure step, the loop that calls it, checkpoints."""
