"""Bundles on the Hugging Face Hub: push, pull, and patience with a bad network."""
