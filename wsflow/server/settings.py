"""All settings of a server: the single source of flags, environment, TOML, defaults and help."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

from wsflow.addresses import ip_address
from wsflow.brokers.select import MEMORY
from wsflow.limits import Limits, SocketLimits, documented, option
from wsflow.runtime.origins import LOOPBACK, Hosts, Origins
from wsflow.server.proxies import Proxies, ProxyHeader

SHORTEST_TOKEN = 16
"""The fewest characters of the console's token."""


@documented
@dataclass(frozen=True, kw_only=True)
class Settings(Limits, SocketLimits):
    """How an app is served: for ``wsflow.server.serve``, and ``wsflow.asgi`` under uvicorn with
    ``wsflow.uvicorn.Protocol``. Every field is a flag of ``wsflow run``, an environment variable
    ``WSFLOW_…`` and a key of ``[tool.wsflow]``.

    Raises:
        TypeError: a value is of another type, or a fraction where a whole number is needed.
        ValueError: a number is negative, infinite or NaN, or with it nothing could work; a text is
            none of those that are allowed; or settings contradict each other.
    """

    host: str = option("127.0.0.1", "Address to listen on.", group="Listening")
    port: int = option(8000, "TCP port to listen on; 0 for any free port.", group="Listening")
    uds: Path | None = option(
        None, "Path of a Unix socket to listen on, instead of host and port.", group="Listening"
    )
    uds_mode: str = option(
        "660",
        "Permissions of the Unix socket, in octal digits: who may write to it may connect.",
        group="Listening",
    )
    fd: int | None = option(
        None,
        "Inherited file descriptor of a listening socket, instead of host and port.",
        group="Listening",
    )
    ssl_certfile: Path | None = option(None, "Certificate chain (PEM); enables TLS.", group="TLS")
    ssl_keyfile: Path | None = option(
        None, "Private key (PEM), if it is not in the certificate file.", group="TLS"
    )
    ssl_keyfile_password: str | None = option(
        None, "Password of the private key. Better set in the environment.", group="TLS"
    )
    static: Path | None = option(
        None,
        "Serve the files of this directory, too, for pages beside their WebSockets. Files and "
        "directories whose names begin with a dot are left out.",
        group="Listening",
    )
    metrics: bool = option(
        False,
        "Show metrics for Prometheus at /metrics, those of all workers together. Needs "
        "wsflow[metrics].",
        group="Listening",
    )
    admin_port: int | None = option(
        None,
        "TCP port for /healthz, /readyz and /metrics, in place of the app's own: who reaches the "
        "app does not reach these. It answers from the start until the end. 0 for any free port.",
        group="Listening",
    )
    admin_host: str | None = option(
        None,
        "Address for the admin port; by default that of the app, or 127.0.0.1 on a Unix socket.",
        group="Listening",
    )
    console: str | None = option(
        None,
        "Serve the console at /_wsflow/, to who knows this token: 16 characters or more. If it is "
        "empty, to browsers on this machine.",
        group="Listening",
    )
    trusted_proxy: tuple[str, ...] = option(
        (),
        "Take the client's address from the proxy's header if the connection comes from this "
        'address or network, or from a Unix socket: "unix". Repeatable.',
        group="Security",
    )
    proxy_header: ProxyHeader = option(
        "x-forwarded-for",
        "The header in which trusted proxies give the client's address: X-Forwarded-For, or "
        "Forwarded (RFC 7239). They must set it; the other one is not read.",
        group="Security",
    )
    max_handshakes: int = option(
        1024,
        "Most connections of each process at a time that have not sent their opening request, or "
        "are in the TLS handshake; further ones wait to be accepted.",
        group="Limits",
    )
    max_handshakes_per_client: int = option(
        512,
        "Most of these of one client, an IPv4 address or a /64 network of IPv6, that is no trusted "
        "proxy; further ones are answered with 429. 0 for no limit.",
        group="Limits",
    )
    grace: float = option(
        20.0,
        "Grace period in seconds: for consumers to handle what was received when the server stops, "
        "and for HTTP answers to be taken.",
        group="Timeouts",
    )
    drain_delay: float = option(
        0.0,
        "Seconds for which a server that is told to stop still lets in newcomers, and closes no "
        "connection: for a load balancer to notice. 0 when a worker is replaced.",
        group="Timeouts",
    )
    drain_over: float = option(
        0.0,
        "Seconds over which a server that stops closes its connections, in random order, so that "
        "their clients do not all come back at once. Each has its own grace period.",
        group="Timeouts",
    )
    worker_timeout: float = option(
        60.0,
        "Seconds for which the event loop of a worker may hang before the worker is killed and "
        "replaced; 0 for no limit. For more than one worker.",
        group="Timeouts",
        command="use wsflow run --workers",
    )
    start_timeout: float = option(
        120.0,
        "Seconds for a worker to serve after it was started, before it is killed; 0 for no limit. "
        "For more than one worker.",
        group="Timeouts",
        command="use wsflow run --workers",
    )
    stall_timeout: float = option(
        0.1,
        "Seconds for which a function may block the event loop before it is named in the log; 0 to "
        "watch for none.",
        group="Timeouts",
        command="set the debug mode of the event loop, and its slow_callback_duration",
    )
    broker: str = option(
        MEMORY,
        "URL of the broker that carries topics between processes: redis://, rediss://, nats:// or "
        "tls://; memory:// for a single process. Needs wsflow[redis] or wsflow[nats].",
        group="Running",
    )
    workers: int = option(
        1,
        "Worker processes. More than one needs a broker, or wsflow[cluster].",
        group="Running",
        command="use wsflow run --workers",
    )
    loop: Literal["auto", "asyncio", "uvloop", "trio"] = option(
        "auto",
        "Event loop. By default uvloop if it is installed, by wsflow[speed], else that of asyncio. "
        "Trio needs wsflow[trio].",
        group="Running",
        command="start the program with uvloop.run(…) or trio.run(…)",
    )
    log_level: Literal["debug", "info", "warning", "error"] = option(
        "info",
        "Lowest level of log messages that are written.",
        group="Running",
        command='set the level of logging.getLogger("wsflow")',
    )
    log_format: Literal["text", "json"] = option(
        "text",
        "Form of log lines: text, or a JSON object each.",
        group="Running",
        command="give your handler a wsflow.log.JSONFormatter",
    )
    log_config: Path | None = option(
        None,
        "Configure logging as this file says, in place of log-level and log-format: that of "
        "dictConfig in .toml or .json, or that of fileConfig.",
        group="Running",
        command="configure logging in the program",
    )
    access_log: bool = option(
        True,
        "Write a log line per connection.",
        group="Running",
        command='disable logging.getLogger("wsflow.access")',
    )

    def __post_init__(self) -> None:
        """Check what types cannot express.

        Raises:
            ValueError: a number is out of range, or settings contradict each other.
        """
        super().__post_init__()
        self._check_lists()
        Origins(self.origin)
        Hosts(self.allowed_host)
        Proxies(self.trusted_proxy)
        if not re.fullmatch("0?[0-7]{3}", self.uds_mode):
            raise ValueError(f"uds_mode is {self.uds_mode!r}: write three octal digits, as in 660")
        self._check_address()
        if self.log_config is not None:
            for name in ("log_level", "log_format"):
                if getattr(self, name) != getattr(Settings, name):
                    raise ValueError(f"{name} and log_config are both set: the file says it all")
            if not self.log_config.is_file():
                raise ValueError(f"log_config is {str(self.log_config)!r}, which is no file")
        if self.static is not None and not self.static.is_dir():
            raise ValueError(f"static is {str(self.static)!r}, which is no directory")
        for name in ("port", "admin_port"):
            if (port := getattr(self, name)) is not None and port > 65535:
                raise ValueError(f"{name} is {port}: ports go up to 65535")
        if self.console and len(self.console) < SHORTEST_TOKEN:
            raise ValueError(
                f"console has {len(self.console)} characters, and nothing else keeps others out: "
                f"use {SHORTEST_TOKEN} or more, as python -c 'import secrets; "
                "print(secrets.token_urlsafe())' makes them"
            )
        if self.admin_host is not None and self.admin_port is None:
            raise ValueError("admin_host is set and admin_port is not: there is no admin port")
        for name in ("ssl_keyfile", "ssl_keyfile_password"):
            if self.ssl_certfile is None and getattr(self, name) is not None:
                raise ValueError(f"{name} is set and ssl_certfile is not: TLS needs a certificate")
        if not self.trusted_proxy and self.proxy_header != Settings.proxy_header:
            raise ValueError(
                f"proxy_header is {self.proxy_header!r} and trusted_proxy is not set: no header "
                "would be read"
            )

    def _check_lists(self) -> None:
        for name in ("origin", "allowed_host", "trusted_proxy"):
            for value in getattr(self, name):
                if "," in value:
                    raise ValueError(
                        f"{name} is {value!r}, with a comma: several values are several flags "
                        f"(--{name.replace('_', '-')} A --{name.replace('_', '-')} B), have spaces "
                        f"between them in WSFLOW_{name.upper()}, and are a list elsewhere"
                    )

    def _check_address(self) -> None:
        instead = [name for name in ("uds", "fd") if getattr(self, name) is not None]
        others = [
            name for name in ("host", "port") if getattr(self, name) != getattr(Settings, name)
        ]
        if instead and len(both := instead + others) > 1:
            raise ValueError(
                f"{both[0]} and {both[1]} are both set: a server listens on one of them"
            )
        same_host = self.admin_host is None or self.admin_host == self.host
        if not instead and same_host and self.port and self.port == self.admin_port:
            raise ValueError(f"port and admin_port are both {self.port}: they listen on one each")
        if self.uds is None and self.uds_mode != Settings.uds_mode:
            raise ValueError("uds_mode is set and uds is not: it is of a Unix socket")

    @property
    def handlers_time(self) -> float:
        """Seconds after which the handlers of a server that was told to stop are cancelled."""
        return self.drain_delay + self.drain_over + self.grace

    @property
    def drain_time(self) -> float:
        """Seconds after which a server that was told to stop has stopped."""
        return self.handlers_time + 3 * self.close_timeout

    def check_program(self) -> None:
        """Check that a program that serves by itself does all of it.

        Raises:
            ValueError: a setting is for ``wsflow run`` only.
        """
        for each in fields(self):
            cure = each.metadata["command"]
            value = getattr(self, each.name)
            if cure and value != each.default:
                raise ValueError(f"{each.name} is {value!r}, which serve() does not do: {cure}")

    def effective(self) -> Settings:
        """The same, with the hosts that are allowed by default written out."""
        address = ip_address(self.host)
        local = self.host == "localhost" or (address is not None and address.is_loopback)
        elsewhere = self.uds is not None or self.fd is not None or bool(self.trusted_proxy)
        if self.allowed_host or elsewhere or not local:
            return self
        return replace(self, allowed_host=LOOPBACK)
