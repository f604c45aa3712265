"""The table in which every endpoint of this dialect stands."""

from __future__ import annotations

from budmlx.server.endpoints import EndpointTable

ERRORS = {422: "The same as 400, for bud-sdk, which shows no reason for that."}


def table() -> EndpointTable:
    """A table for some of the endpoints, under `/v1`."""
    return EndpointTable("/v1", ERRORS)
