"""Commands that need no stage."""
