"""Endpoints that belong to no dialect: health, models, documents."""
