"""The keys under which the application has what this dialect needs."""

from __future__ import annotations

from aiohttp import web

from budmlx.server.dialects.responses.jobs import Jobs
from budmlx.server.dialects.responses.kept import KeptResponses

KEPT = web.AppKey("kept_responses", KeptResponses)
JOBS = web.AppKey("response_jobs", Jobs)
