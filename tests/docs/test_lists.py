"""Lists that are written by hand have every item of the code."""

from __future__ import annotations

from typing import get_args, get_type_hints

import pytest

from budmlx.config import Config
from budmlx.types import MissReason, ResponseFormat
from tests.docs.pages import DOCS

LISTS = {
    "prefix-cache.md": [f"`{reason}`" for reason in get_args(MissReason)],
    "response-cache.md": [
        f"`{value}`" for value in get_args(Config.model_fields["cache"].annotation)
    ],
    "forms-and-tools.md": [
        f'"type": "{kind}"' for kind in get_args(get_type_hints(ResponseFormat)["kind"])
    ],
}


@pytest.mark.parametrize("page", LISTS)
def test_a_list_is_complete(page: str) -> None:
    text = (DOCS / page).read_text("utf-8")
    assert LISTS[page] and not [item for item in LISTS[page] if item not in text]
