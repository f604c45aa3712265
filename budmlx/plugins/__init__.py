"""Plugins: their hooks and interfaces, discovery, checks, and the guard around their calls."""
