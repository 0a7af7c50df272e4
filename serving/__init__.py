"""Serving: a bundle -> a Triton model repository -> the real server on loopback. Never imports torch."""
