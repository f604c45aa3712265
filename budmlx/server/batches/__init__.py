"""Batches: many requests in a file, answered in the background."""
