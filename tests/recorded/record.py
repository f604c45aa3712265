"""Records anew what servers reply to the requests: `python -m tests.recorded.record`."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from tests.recorded.blanks import differs
from tests.recorded.exchanges import HOSTS, REPLIES, replies


def main() -> None:
    """Write the replies; fails if the hosts do not agree."""
    first, *others = (asyncio.run(replies(host)) for host in HOSTS)
    wrong = [one["name"] for other in others for one in unlike(first, other)]
    if wrong:
        sys.exit(f"The hosts reply differently, so nothing is written: {', '.join(wrong)}")
    lines = [json.dumps(reply, ensure_ascii=False) + "\n" for reply in first]
    REPLIES.write_text("".join(lines), "utf-8")
    print(f"{len(lines)} replies in {REPLIES}")


def unlike(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The replies of the second list that differ from those of the first."""
    return [
        b
        for a, b in zip(one, other, strict=True)
        if a | {"body": ""} != b | {"body": ""} or differs(a["body"], b["body"])
    ]


if __name__ == "__main__":
    main()
