"""Samplers `mirostat`, `xtc` and `top-n-sigma`, and the logits processor `dry`.

What they do is in the modules `samplers` and `dry`, which only the core imports.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from budmlx import hookimpl
from budmlx.plugins.specs import LogitsProcessorSpec, SamplerSpec

MAX_BREAKERS = 32

TokenId = Annotated[int, Field(strict=True, ge=0, lt=2**31)]


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class MirostatOptions(_Options):
    """tau: bits of surprise per token to aim at. eta: how fast the limit is corrected."""

    tau: float = Field(5.0, gt=0, le=20)
    eta: float = Field(0.1, gt=0, le=1)


class XtcOptions(_Options):
    """threshold: a top choice has at least this probability. probability: of excluding them."""

    threshold: float = Field(0.1, gt=0, le=0.5)
    probability: float = Field(0.5, ge=0, le=1)


class TopNSigmaOptions(_Options):
    """n: how many standard deviations below the largest logit a token may be."""

    n: float = Field(1.0, gt=0, le=100)


class DryOptions(_Options):
    """The penalty on a token that would prolong a repetition of `length` tokens is
    `multiplier * base ** (length - allowed_length)`.

    allowed_length: shorter repetitions are free. last_n: how many tokens to look back on;
    0 means all. sequence_breakers: ids of tokens that no repetition goes across.
    """

    multiplier: float = Field(0.8, ge=0, le=100)
    base: float = Field(1.75, ge=1, le=4)
    allowed_length: int = Field(2, ge=1, le=50)
    last_n: int = Field(0, ge=0, lt=2**31)
    sequence_breakers: list[TokenId] = Field([], max_length=MAX_BREAKERS)


MIROSTAT = SamplerSpec("mirostat", MirostatOptions, "budmlx_sampler_extras.samplers:Mirostat")
XTC = SamplerSpec("xtc", XtcOptions, "budmlx_sampler_extras.samplers:Xtc")
TOP_N_SIGMA = SamplerSpec(
    "top-n-sigma", TopNSigmaOptions, "budmlx_sampler_extras.samplers:TopNSigma"
)
DRY = LogitsProcessorSpec("dry", DryOptions, "budmlx_sampler_extras.dry:Dry")


@hookimpl
def add_samplers() -> list[SamplerSpec]:
    """The samplers that this package brings."""
    return [MIROSTAT, XTC, TOP_N_SIGMA]


@hookimpl
def add_logits_processors() -> list[LogitsProcessorSpec]:
    """The logits processors that this package brings."""
    return [DRY]
