"""The search for the settings of all layers at a given size or accuracy."""
