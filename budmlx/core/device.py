"""The device that MLX computes on."""

from __future__ import annotations

import logging
import os

import mlx.core as mx

from budmlx.backend import ADVICE, DEVICE_VARIABLE, conflict
from budmlx.errors import ModelLoadError

log = logging.getLogger(__name__)

DEVICES = {"cpu": mx.cpu, "gpu": mx.gpu}


def use_device() -> None:
    """Make the device that `BUDMLX_DEVICE` names the default one of this process, and try it.

    Raises:
        ModelLoadError: there is no such device, or it does not compute.
    """
    if problem := conflict():
        log.warning("%s", problem)
    name = os.environ.get(DEVICE_VARIABLE, "")
    if name and name not in DEVICES:
        raise ModelLoadError(f"{DEVICE_VARIABLE} is {name!r}; it must be cpu or gpu.")
    try:
        if name:
            mx.set_default_device(DEVICES[name])
        mx.eval(mx.zeros(1))
    except (RuntimeError, ValueError) as error:
        device = name or mx.default_device()
        raise ModelLoadError(f"MLX cannot use the device {device} ({error}). {ADVICE}") from error
