"""Handlers, one module per group of endpoints."""
