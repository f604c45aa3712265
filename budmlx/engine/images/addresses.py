"""Address rules: the hosts that images may be fetched from, by name, address and list."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

from budmlx.errors import ConfigError

WEB_PORTS = frozenset({80, 443})
"""The ports of entries that name none."""

_ENTRY = re.compile(r"(\*\.|\*|)(\[[0-9a-f:.]+\]|[\w.-]+|)(?::([0-9]{1,5}))?", re.ASCII)
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")

# What the registries (RFC 6890, RFC 6052, RFC 7526) set aside and `is_global` lets through in
# some versions of Python: relays and translators lead to addresses that hide in theirs.
_IPV6_UNICAST = ipaddress.IPv6Network("2000::/3")
_SET_ASIDE = (
    ipaddress.IPv4Network("192.0.0.0/24"),
    ipaddress.IPv4Network("192.88.99.0/24"),
    ipaddress.IPv6Network("2001::/23"),
    ipaddress.IPv6Network("2001:db8::/32"),
    ipaddress.IPv6Network("2002::/16"),
    ipaddress.IPv6Network("3fff::/20"),
)


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet.

    Loopback, private, shared, link-local, multicast, reserved and unspecified addresses are
    not, nor are those that carry an IPv4 address: mapped, NAT64, 6to4, Teredo.
    """
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if parsed.version == 6 and (parsed not in _IPV6_UNICAST or parsed.scope_id):
        return False
    return (
        parsed.is_global
        and not parsed.is_multicast
        and not any(parsed in network for network in _SET_ASIDE)
    )


def normal_host(host: str) -> str:
    """A host name in lower case, or an IP address in its canonical form, without brackets.

    A host whose last label is a number is an IPv4 address (WHATWG URL, "ends in a number");
    of its spellings only four decimal numbers are taken, since resolvers read the others too.

    Raises:
        ValueError: it is neither.
    """
    host = host.lower()
    if host.startswith("["):
        return str(ipaddress.IPv6Address(host.removeprefix("[").removesuffix("]")))
    labels = host.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        return str(ipaddress.IPv4Address(host))
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError("not a host name")
    return host


@dataclass(frozen=True, slots=True)
class HostRule:
    """One entry of the list. wildcard: `host` itself (empty), `*.` what is below it, `*` all."""

    wildcard: str
    host: str
    ports: frozenset[int]
    private: bool
    """Whether the address may be private: the entry names exactly one host and port."""

    def covers(self, host: str, port: int) -> bool:
        """Whether a host, in its normal form, and a port are what the entry names."""
        if port not in self.ports:
            return False
        match self.wildcard:
            case "*":
                return True
            case "*.":
                return host.endswith(f".{self.host}")
            case _:
                return host == self.host


def host_rules(entries: Sequence[str]) -> tuple[HostRule, ...]:
    """Parse `example.com`, `*.example.com`, `*` (any public host), each at ports 80 and 443, or
    at the one that is appended, as in `*.example.com:8443`. `127.0.0.1:9000`, a host and a port
    without a wildcard, may be private.

    Raises:
        ConfigError: an entry is nothing of the kind.
    """
    return tuple(map(_rule, entries))


def _rule(entry: str) -> HostRule:
    match = _ENTRY.fullmatch(entry.strip().lower())
    try:
        if match is None or (match[1] == "*") == bool(match[2]):
            raise ValueError("not an entry")
        host = normal_host(match[2]) if match[2] else ""
        port = int(match[3]) if match[3] else None
        if port is not None and not 0 < port < 65536:
            raise ValueError("not a port")
    except ValueError as error:
        raise ConfigError(
            f"image_host: {entry!r} is not a host. Write example.com, *.example.com, * (any "
            "public host), or one of these with a port, such as 127.0.0.1:9000; no scheme, no path."
        ) from error
    ports = WEB_PORTS if port is None else frozenset({port})
    return HostRule(match[1], host, ports, private=port is not None and not match[1])
