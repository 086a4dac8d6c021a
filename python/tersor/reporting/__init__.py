"""What compression did, in tables."""
