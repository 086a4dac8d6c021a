"""The command ``tersor``."""
