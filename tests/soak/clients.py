"""Clients that read, leave, keep things and look after the server, each in a thread of its own."""

from __future__ import annotations

import json
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from tests.server.test_images import data_url, encoded
from tests.soak.endings import ending, excused
from tests.soak.keepers import Fault, Keepers, good
from tests.soak.requests import Asked, drawn
from tests.soak.world import EYES, OTHER, TEXT, Reply, World
from tests.vision_plugin import picture

REGEX = {"type": "regex", "regex": "[a-z]{20}"}


def canaries() -> dict[str, Asked]:
    """Greedy requests, marked by their names: what they get never changes."""

    def chat(name: str, **more: Any) -> Asked:
        content: Any = f"Canary {name}. " + "the quick brown fox jumps over the lazy dog " * 3
        if "picture" in more:
            url = data_url(encoded(picture(more.pop("picture"))))
            picture_part = {"type": "image_url", "image_url": {"url": url}}
            content = [picture_part, {"type": "text", "text": content}]
        messages = [{"role": "user", "content": content}]
        greedy = {"temperature": 0, "max_tokens": 40, "ignore_eos": True, "stream": False}
        body = {"model": TEXT, "messages": messages, **greedy, **more}
        return Asked("/v1/chat/completions", body)

    return {
        "plain": chat("plain"),
        "stream": chat("plain", stream=True),
        "adapter": chat("adapter", adapter="a"),
        "other": chat("other", model=OTHER),
        "picture": chat("picture", model=EYES, picture=3, max_tokens=12),
        "form": chat("form", ignore_eos=False, response_format=REGEX),
        "penalty": chat("penalty", frequency_penalty=0.5, n=2),
    }


def said(reply: Reply) -> list[str]:
    """The texts of a chat's choices."""
    if reply.kind != "text/event-stream":
        return [choice["message"]["content"] for choice in reply.json["choices"]]
    texts: dict[int, str] = {}
    for line in reply.content.decode().split("\n"):
        if line.startswith("data: {"):
            for choice in json.loads(line[6:])["choices"]:
                text = choice["delta"].get("content") or ""
                texts[choice["index"]] = texts.get(choice["index"], "") + text
    return [texts[index] for index in sorted(texts)]


class Clients:
    """Clients of a world. ended: how many requests ended how. faults: what must not be."""

    def __init__(self, world: World):
        self.world = world
        self.ended: Counter[str] = Counter()
        self.faults: list[str] = []
        self.refused: list[bytes] = []
        self._expected = {name: said(self.world.ask(each.path, each.body)) for name, each in ALL}
        self._kept = kept = Keepers(world)
        self._deeds: Sequence[tuple[float, Callable[[random.Random], str]]] = [
            (60, self.read),
            (20, self.leave),
            (12, self.canary),
            (3, kept.follow_up),
            (2, kept.in_the_background),
            (1, kept.batch),
            (1, kept.message_batch),
            (2, kept.look_after_batches),
            (1, self.look_around),
            (0.5, self.cancel),
            (0.2, self.move_a_model),
            (0.2, self.reload),
            (0.15, self.kill),
        ]

    def run(self, seconds: float, seed: int, at_once: int = 12) -> None:
        """Do things at random until the time is over."""
        end = time.monotonic() + seconds
        weights, deeds = zip(*self._deeds, strict=True)

        def work(number: int) -> None:
            chance = random.Random(f"{seed} {number}")
            while time.monotonic() < end and not self.faults:
                deed = chance.choices(deeds, weights)[0]
                try:
                    self.ended[f"{deed.__name__}: {deed(chance)}"] += 1
                except Exception as error:  # Whatever it is, it is told.
                    self.faults.append(f"{deed.__name__}: {type(error).__name__}: {error}"[:3000])

        threads = [threading.Thread(target=work, args=(number,)) for number in range(at_once)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    # -- requests

    def read(self, chance: random.Random) -> str:
        """Send a request and read all of the reply."""
        asked = drawn(chance)
        reply = self.world.ask(asked.path, asked.body)
        how = self._judged(asked, reply)
        if asked.path == "/v1/responses" and asked.body["store"] and how == "complete":
            self._kept.keep(reply)
        return f"{asked.path} {how}"

    def _judged(self, asked: Asked, reply: Reply) -> str:
        how = ending(reply)
        if asked.bad:
            if reply.status != 400:
                raise Fault(f"taken: {asked} {reply}")
            self.refused = [*self.refused[-50:], reply.content]
        elif how != "complete" and not excused(reply):
            raise Fault(f"{how}: {asked} {reply}")
        return how

    def leave(self, chance: random.Random) -> str:
        """Send a request and go, before or within its reply, politely or not."""
        asked = drawn(chance)
        connection = self.world.send(asked.path, asked.body)
        try:
            moment = chance.choice(["at once", "soon", "within"])
            if moment == "soon":
                time.sleep(chance.random() * 0.05)
            elif moment == "within":
                connection.getresponse().read1(chance.randrange(1, 400))
            if chance.random() < 0.5 and connection.sock is not None:
                linger = struct.pack("ii", 1, 0)
                connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        finally:
            connection.close()
        return moment

    def canary(self, chance: random.Random) -> str:
        """Ask what was asked before, and compare."""
        name, asked = chance.choice(ALL)
        reply = self.world.ask(asked.path, asked.body)
        if (how := self._judged(asked, reply)) != "complete":
            return how
        if (found := said(reply)) != self._expected[name]:
            raise Fault(f"canary {name}: {found} is not {self._expected[name]}")
        return name

    def check_canaries(self) -> None:
        """Ask all of them once."""
        for name, asked in ALL:
            found = said(self.world.ask(asked.path, asked.body))
            assert found == self._expected[name], name

    # -- what administrators do

    def look_around(self, chance: random.Random) -> str:
        """Read what is told of the server."""
        path = chance.choice(["/metrics", "/v1/watch", "/v1/log", "/v1/models", "/v1/usage"])
        if (reply := self.world.admin(path)).status != 200:
            raise Fault(f"{path}: {reply}")
        return path

    def cancel(self, chance: random.Random) -> str:
        """End a request of somebody."""
        running = self.world.watch()["running"]
        if not running:
            return "none"
        name = chance.choice(running)["request_id"]
        reply = self.world.admin(f"/v1/requests/{name}/cancel", b"", method="POST")
        if reply.status not in (200, 404):
            raise Fault(f"cancel: {reply}")
        return str(reply.status)

    def move_a_model(self, chance: random.Random) -> str:
        """Load or unload the model that nobody needs but a canary."""
        what = chance.choice(["load", "unload"])
        good(self.world.admin(f"/v1/models/{what}", {"model": OTHER}))
        return what

    def reload(self, chance: random.Random) -> str:
        """Change what a running server takes from its configuration."""
        self.world.configure(f"store_max_responses = {chance.randrange(40, 60)}\n")
        reply = self.world.admin("/v1/reload", {})
        if reply.status != 200:
            raise Fault(f"reload: {reply}")
        return "taken"

    def kill(self, chance: random.Random) -> str:
        """Kill a core."""
        return "a core" if self.world.kill_core(chance.randrange(8)) else "none"


ALL = list(canaries().items())
