"""Rejection of requests from other web pages and through rebound host names.

Any web page can make a browser send requests to this machine. The header `Host` is the name to which the browser
connects, which another page can make resolve to 127.0.0.1 (DNS rebinding); `Origin` is the page that sends the request.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import socket
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from ..errors import ConfigurationError

logger = logging.getLogger(__name__)

ALL_INTERFACES = ("0.0.0.0", "::")
NAME = r"{0}(\.{0})*".format(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?")  # labels separated by dots
PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}  # default ports
Scope = dict[str, Any]  # of ASGI: a request
Address = tuple[str, int | None]  # host name and port; None: the default port of the scheme


class ServedNames:
    """Accepted values of `Host` and `Origin`.

    Args:
        host: address on which the demo listens. If that is 0.0.0.0 or ::, all interfaces, this machine's name and
            every IP address are accepted; addresses, unlike names, cannot be rebound.
        allowed: additional names, of a reverse proxy or a tunnel; pages under these names may use any port.
    """

    def __init__(self, host: str, allowed: Iterable[str] = ()) -> None:
        self.allowed = {bare_name(name) for name in allowed}
        self.any_address = host.strip("[]") in ALL_INTERFACES
        self.machine_names = {"localhost", _spelling(host.strip("[]"))}
        if self.any_address:
            name = socket.gethostname().lower()
            short_name = name.partition(".")[0]
            self.machine_names |= {name, short_name, f"{short_name}.local"}

    def allow(self, name: str) -> None:
        """Accepts another name from now on."""
        self.allowed.add(bare_name(name))

    def refusal(self, headers: Iterable[tuple[bytes, bytes]], method: str = "GET") -> str | None:
        """Returns the reason to reject a request with these headers; None if it is accepted."""
        fields: dict[str, list[str]] = {}
        for key, value in headers:
            fields.setdefault(key.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        hosts, origins = fields.get("host", []), fields.get("origin", [])
        if len(hosts) != 1 or len(origins) > 1:
            return "a request must have exactly one Host and at most one Origin"
        host = _split(f"//{hosts[0]}")
        if host is None or not self._serves(host[0]):
            return f"this page is not served as {hosts[0]!r}"
        if origins:
            origin = _split(origins[0])
            # `Host` omits the default port of the scheme
            page = (host[0], host[1] or PORTS.get(urlsplit(origins[0]).scheme))
            if origin is None or (origin[0] not in self.allowed and origin != page):
                return f"this page accepts no requests from pages of {origins[0]!r}"
        # requests by images, frames and scripts of other pages have no Origin
        site = fields.get("sec-fetch-site", ["none"])[0]
        follows_link = method in ("GET", "HEAD") and fields.get("sec-fetch-dest", [""])[0] == "document"
        if not origins and site in ("cross-site", "same-site") and not follows_link:
            return "this page must not be embedded in other pages"
        return None

    def _serves(self, name: str) -> bool:
        """Returns whether a host name or address, in canonical spelling, is one of this page."""
        if name in self.machine_names or name in self.allowed:
            return True
        return _is_address(name) and (self.any_address or ipaddress.ip_address(name).is_loopback)


class RefuseOthers:
    """ASGI middleware that answers 403 to requests that `names` does not accept."""

    def __init__(self, app: Any, names: ServedNames) -> None:
        self.app, self.names = app, names

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Forwards or rejects a request."""
        reason = None
        if scope["type"] in ("http", "websocket"):
            reason = self.names.refusal(scope["headers"], scope.get("method", "GET"))
        if reason is None:
            await self.app(scope, receive, send)
            return
        logger.warning("rejected %s %r: %s (see --allow-host)", scope.get("method", "WebSocket"), scope["path"], reason)
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": ""})  # before acceptance, this is a 403
            return
        body = f"403: {reason}. `daa demo --allow-host NAME` adds a name.\n".encode()
        headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"x-content-type-options", b"nosniff")]
        headers += [(b"connection", b"close")]  # uploads are not read
        await send({"type": "http.response.start", "status": 403, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def bare_name(name: str) -> str:
    """Returns a host name or address in lower case; raises ConfigurationError for others, such as URLs and patterns."""
    bare = name.strip()
    bare = _spelling(bare[1:-1] if bare.startswith("[") and bare.endswith("]") else bare)
    if not (_is_address(bare) or re.fullmatch(NAME, bare)):
        raise ConfigurationError(
            f"`--allow-host` must be a host name, such as photos.example.org, without scheme, port or *, got {name!r}"
        )
    return bare


def _split(url: str) -> Address | None:
    """Returns the address of an origin or of "//host"; None if invalid."""
    try:
        parts = urlsplit(url)
        name, port = parts.hostname, parts.port
    except ValueError:
        return None
    if not name or parts.username is not None or parts.path or parts.query or parts.fragment:
        return None
    return _spelling(name), port or PORTS.get(parts.scheme)


def _spelling(name: str) -> str:
    """Returns the canonical spelling of a name or address."""
    name = name.lower().rstrip(".")
    return str(ipaddress.ip_address(name)) if _is_address(name) else name


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
