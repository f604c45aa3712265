"""Clients that have a server keep things: responses, files, batches."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from tests.soak.endings import ending, excused
from tests.soak.requests import lines, words
from tests.soak.world import TEXT, Reply, World

FINAL = ("completed", "incomplete", "failed", "cancelled")


class Fault(AssertionError):
    """Something that no client should see."""


def good(reply: Reply) -> Any:
    """The body of a reply. Raises Fault unless it is right."""
    if reply.status != 200:
        raise Fault(f"{reply}")
    return reply.json


class Keepers:
    """What clients of a world have it keep."""

    def __init__(self, world: World):
        self.world = world
        self._stored: list[str] = []
        self._batches: list[tuple[str, int]] = []

    def keep(self, reply: Reply) -> None:
        """Remember a response that is stored."""
        if reply.kind == "application/json":
            self._stored = [*self._stored[-20:], reply.json["id"]]

    def follow_up(self, chance: random.Random) -> str:
        """Go on after a stored response, or fetch or delete one."""
        if not self._stored:
            return "none"
        name = chance.choice(self._stored)
        what = chance.choice(["go on", "fetch", "delete"])
        if what == "go on":
            more = {"previous_response_id": name, "input": words(chance), "max_output_tokens": 16}
            reply = self.world.ask("/v1/responses", {"model": TEXT, **more})
        else:
            method = "GET" if what == "fetch" else "DELETE"
            reply = self.world.ask(f"/v1/responses/{name}", method=method)
        # Others delete, too, and the store keeps few.
        fine = reply.status in (200, 404) or b"previous_response_not_found" in reply.content
        if not fine and not excused(reply):
            raise Fault(f"{what}: {reply}")
        return f"{what} {reply.status}"

    def in_the_background(self, chance: random.Random) -> str:
        """Have a response made in the background, and follow, poll or cancel it."""
        asked = {"model": TEXT, "input": words(chance), "background": True, "store": True}
        length = chance.choice([16, 40, 300])
        reply = self.world.ask("/v1/responses", {**asked, "max_output_tokens": length})
        if reply.status != 200 and excused(reply):
            return "refused"
        path = f"/v1/responses/{good(reply)['id']}"
        what = chance.choice(["follow", "leave and follow", "cancel", "poll", "forget"])
        if what == "leave and follow":
            connection = self.world.send(f"{path}?stream=true")
            connection.getresponse().read1(100)
            connection.close()
        if "follow" in what:
            stream = self.world.ask(f"{path}?stream=true&starting_after={chance.randrange(3)}")
            if stream.status != 404 and ending(stream) != "complete" and not excused(stream):
                raise Fault(f"{what}: {stream}")
        if what == "cancel":
            time.sleep(chance.random() * 0.1)
            self.world.ask(f"{path}/cancel", b"", method="POST")
        if what == "forget":
            return what
        return f"{what}: {self._last_status(path)}"

    def _last_status(self, path: str) -> str:
        """How a response ended."""
        end = time.monotonic() + 60
        while (reply := self.world.ask(path)).status == 200:
            if reply.json["status"] in FINAL:
                if reply.json["status"] == "failed" and not excused(reply):
                    raise Fault(f"failed: {reply}")
                return str(reply.json["status"])
            if time.monotonic() > end:
                raise Fault(f"never over: {reply}")
            time.sleep(0.1)
        if reply.status != 404:  # the store keeps few
            raise Fault(f"{reply}")
        return "not kept any more"

    def batch(self, chance: random.Random) -> str:
        """Upload lines and begin a batch of them."""
        purpose = b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x.jsonl"\r\n\r\n'
        made = lines(chance)
        form = purpose + head + made + b"\r\n--b--\r\n"
        kind = {"Content_Type": "multipart/form-data; boundary=b"}
        file = good(self.world.ask("/v1/files", form, method="POST", **kind))
        window = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
        asked = {"input_file_id": file["id"], **window}
        begun = good(self.world.ask("/v1/batches", asked))
        self._batches.append((begun["id"], made.count(b"\n") + 1))
        return "begun"

    def message_batch(self, chance: random.Random) -> str:
        """Begin a batch of messages."""
        requests = [
            {
                "custom_id": str(number),
                "params": {
                    "model": TEXT,
                    "max_tokens": chance.randrange(1, 30),
                    "messages": [{"role": "user", "content": words(chance)}],
                },
            }
            for number in range(chance.randrange(1, 8))
        ]
        begun = good(self.world.ask("/v1/messages/batches", {"requests": requests}))
        self._batches.append((begun["id"], len(requests)))
        return "begun"

    def look_after_batches(self, chance: random.Random) -> str:
        """Cancel a batch, or take the results of one that is over and delete its files."""
        if not self._batches:
            return "none"
        batch = name, total = chance.choice(self._batches)
        path = f"/v1/messages/batches/{name}" if name.startswith("msg") else f"/v1/batches/{name}"
        if chance.random() < 0.2:
            reply = self.world.ask(f"{path}/cancel", b"", method="POST")
            if reply.status not in (200, 400, 404, 409):
                raise Fault(f"cancel: {reply}")
            return f"cancel {reply.status}"
        reply = self.world.ask(path)
        if reply.status == 404 and batch not in self._batches:  # somebody else deleted it
            return "gone"
        found = good(reply)
        status = found.get("status") or found["processing_status"]
        if status not in ("completed", "failed", "cancelled", "expired", "ended"):
            return str(status)
        with suppress(ValueError):
            self._batches.remove(batch)
        if status == "ended":
            self._check(total, [self.world.ask(f"{path}/results")])
            self.world.ask(path, method="DELETE")
        elif status == "completed":
            files = [found[kind] for kind in ("output_file_id", "error_file_id") if found[kind]]
            self._check(total, [self.world.ask(f"/v1/files/{file}/content") for file in files])
            for file in (*files, found["input_file_id"]):
                self.world.ask(f"/v1/files/{file}", method="DELETE")
        return f"over: {status}"

    def _check(self, total: int, replies: Sequence[Reply]) -> None:
        """Each line has one result."""
        if any(reply.status == 404 for reply in replies):  # somebody else looked after it
            return
        results = [
            json.loads(line) for reply in replies for line in reply.content.decode().splitlines()
        ]
        if sorted(int(each["custom_id"]) for each in results) != list(range(total)):
            raise Fault(f"results of {total} lines: {results}"[:3000])
