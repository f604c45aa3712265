"""Vectors of texts: how a model makes them, and the requests for them."""

from __future__ import annotations
