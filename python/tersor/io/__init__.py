"""Files: the container, checkpoints of several files, models saved and loaded."""
