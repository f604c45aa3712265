"""Names of models, as Ollama's clients write them."""

from __future__ import annotations

from budmlx.engine.models.catalogue import TAG
from budmlx.engine.models.models import Models

HOSTS = ("hf.co/", "huggingface.co/")


def tagged(name: str) -> str:
    """A name as lists show it."""
    return name if ":" in name else f"{name}:{TAG}"


def meant(name: str, models: Models) -> str:
    """The name of ours that a client means."""
    for host in HOSTS:
        name = name.removeprefix(host)
    return name if name in models.names else name.removesuffix(f":{TAG}")
