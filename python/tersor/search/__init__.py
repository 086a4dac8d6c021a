"""Rate-distortion search for per-layer settings, at a target size or accuracy."""
