"""The server that runs already: where it is, which key it takes, and what it answers."""

from __future__ import annotations

import json
import os
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from budmlx.cli.load_model import read_config
from budmlx.config import Config
from budmlx.config.sources import API_KEY_VARIABLE, BASE_URL_VARIABLE
from budmlx.errors import BudmlxError, ConfigError

END_OF_CERTIFICATE = "-----END CERTIFICATE-----"
ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}
"""Where a server is reached that listens on all addresses."""
PAUSE = 0.2
"""Seconds before a server is asked again."""
SECONDS = 10.0
"""How long an answer may take that needs no model."""
NO_PROXY = urllib.request.ProxyHandler({})

Answer = dict[str, Any]


class ServerRefusal(BudmlxError):
    """The server answered with an error. status: its HTTP status."""

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


class NoServer(BudmlxError):
    """Nothing answers where the server should be."""


@dataclass(frozen=True, slots=True)
class RunningServer:
    """A server that answers HTTP.

    url: without `/v1`. key: its API key, or empty. certificate: the file with that which it must
    have with HTTPS; None for one that the system trusts.
    """

    url: str
    key: str
    certificate: Path | None = None

    @classmethod
    def find(cls, file: Path | None, *, admin: bool = True) -> Self:
        """The server of `BUDMLX_BASE_URL`, else the one that the configuration would start.

        admin: of keys the admin key comes first, since it opens everything; else it is left out.

        Raises:
            ConfigError: the configuration is wrong, or its server is on a port of its choice.
        """
        config = read_config({}, file).config
        url = os.environ.get(BASE_URL_VARIABLE) or configured(config)
        if not url.startswith(("http://", "https://")):
            raise ConfigError(
                f"{BASE_URL_VARIABLE} is {url!r}; it is an address such as http://127.0.0.1:8080."
            )
        own_server = BASE_URL_VARIABLE not in os.environ
        return cls(
            url.rstrip("/").removesuffix("/v1"),
            key_of(config, admin=admin),
            config.tls_cert if own_server else None,
        )

    def models(self, seconds: float = SECONDS) -> list[Answer]:
        """Every name that is served. seconds: to wait for it. Raises BudmlxError."""
        entries = self._ask("/v1/models", seconds=seconds).get("data")
        if not isinstance(entries, list):
            raise self._foreign()
        if not all(isinstance(each, dict) and "state" in each for each in entries):
            raise self._foreign()
        return entries

    def entry(self, name: str) -> Answer:
        """One of them. Raises BudmlxError."""
        return self._ask(f"/v1/models/{quote(name, safe='/')}")

    def shown(self, name: str) -> Answer:
        """What a model can do, as Ollama's clients are told. Raises BudmlxError."""
        return self._ask("/api/show", {"model": name})

    def usage(self, days: int) -> Answer:
        """What API keys used in the last days, today's first. Raises BudmlxError."""
        return self._ask(f"/v1/usage?days={days}")

    def reload(self) -> Answer:
        """Have it read its configuration again. Raises BudmlxError."""
        return self._ask("/v1/reload", {})

    def load(self, name: str) -> Answer:
        """Load a model, however long it takes. Raises BudmlxError."""
        while True:
            try:
                return self._ask("/v1/models/load", {"model": name}, seconds=None)
            except ServerRefusal as refusal:
                if refusal.status != HTTPStatus.SERVICE_UNAVAILABLE:
                    raise
                # The server waits for a while only, but its load goes on.
                if self.entry(name)["state"] not in ("loading", "loaded"):
                    raise
                time.sleep(PAUSE)

    def unload(self, name: str) -> Answer:
        """Unload a model when its requests have ended. Raises BudmlxError."""
        return self._ask("/v1/models/unload", {"model": name}, seconds=None)

    def _ask(
        self, path: str, body: Mapping[str, Any] | None = None, seconds: float | None = SECONDS
    ) -> Answer:
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        try:
            request = urllib.request.Request(self.url + path, data, headers)
            opener = urllib.request.build_opener(NO_PROXY, self._https())
            with opener.open(request, timeout=seconds) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            raise ServerRefusal(self._reason(error), error.code) from error
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise NoServer(
                f"No server answers at {self.url} ({reason}). Start one with `budmlx serve`, or "
                f"set {BASE_URL_VARIABLE} to the address of one."
            ) from error
        except ValueError as error:
            raise self._foreign() from error
        if not isinstance(answer, dict):
            raise self._foreign()
        return answer

    def _https(self) -> urllib.request.HTTPSHandler:
        if self.certificate is None:
            return urllib.request.HTTPSHandler()
        # It is known as it is, whatever names it has and whoever signed it.
        own = self.certificate.expanduser().read_text("ascii", errors="replace")
        first = own[: own.find(END_OF_CERTIFICATE) + len(END_OF_CERTIFICATE)]
        context = ssl.create_default_context(cadata=first)
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.check_hostname = False
        return urllib.request.HTTPSHandler(context=context)

    def _reason(self, error: urllib.error.HTTPError) -> str:
        """What the server says is wrong."""
        with error:
            try:
                message = str(json.load(error)["error"]["message"])
            except (ValueError, LookupError, TypeError, OSError, HTTPException):
                return f"{self.url} answered {error.code} {error.reason}: is it budmlx?"
        if error.code == HTTPStatus.UNAUTHORIZED:
            return f"{message} Set {API_KEY_VARIABLE} to a key of the server at {self.url}."
        return message

    def _foreign(self) -> BudmlxError:
        return BudmlxError(f"What answers at {self.url} is not a server of budmlx.")


def key_of(config: Config, *, admin: bool = True) -> str:
    """The key for a server; empty if none is known. admin: see `RunningServer.find`."""
    own = os.environ.get(API_KEY_VARIABLE)
    keys = [*([own] if own else []), *config.accepted_keys()]
    admin_keys = config.accepted_admin_keys()
    keys = [*admin_keys, *keys] if admin else [key for key in keys if key not in admin_keys]
    return next(iter(keys), "")


def configured(config: Config) -> str:
    """Where the server of a configuration answers. Raises ConfigError if that is not known."""
    if config.port == 0:
        raise ConfigError(
            "The configuration lets the server choose its port; set "
            f"{BASE_URL_VARIABLE} to the address that it said."
        )
    host = ANY_ADDRESS.get(config.host, config.host)
    scheme = "http" if config.tls_cert is None else "https"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{config.port}"
