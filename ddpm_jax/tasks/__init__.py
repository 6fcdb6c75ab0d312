"""Tasks: what can be trained, a file each; see `training.task`."""
