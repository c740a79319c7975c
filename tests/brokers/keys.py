"""Certificates, NKeys and JWTs, as a CA and an operator of NATS give them out."""

from __future__ import annotations

import base64
import json
import os
import ssl
import subprocess
from pathlib import Path
from typing import Any

import nkeys


class Certificates:
    """A CA, with a certificate for a server on loopback and one for a client.

    Attributes:
        ca: the certificate of the CA.
        server: the server's certificate and its key.
        client: the client's, and its key, whose password is ``open sesame``.
    """

    PASSWORD = "open sesame"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.ca = folder / "ca.pem"
        ca_key = folder / "ca.key"
        self._make(
            *("-keyout", ca_key, "-out", self.ca, "-subj", "/CN=a CA", "-nodes"),
        )
        signed = ("-CA", self.ca, "-CAkey", ca_key)
        self.server = folder / "server.pem", folder / "server.key"
        self._make(
            *("-keyout", self.server[1], "-out", self.server[0], "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-nodes", *signed),
        )
        self.client = folder / "client.pem", folder / "client.key"
        self._make(
            *("-keyout", self.client[1], "-out", self.client[0], "-subj", "/CN=me"),
            *("-passout", f"pass:{self.PASSWORD}", *signed),
        )

    def _make(self, *words: str | Path) -> None:
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-days", "2"]
        command += ["-pkeyopt", "ec_paramgen_curve:prime256v1", *map(str, words)]
        # openssl makes each a CA, and Python 3.13 wants to know what a CA may do.
        command += ["-addext", "keyUsage=critical,digitalSignature,keyCertSign,cRLSign"]
        subprocess.run(command, check=True, capture_output=True)

    def context(self, *, demanding: bool = False) -> ssl.SSLContext:
        """What the server speaks TLS with.

        Args:
            demanding: whether it demands a certificate of the CA from its clients.
        """
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.ca)
        context.load_cert_chain(*self.server)
        context.verify_mode = ssl.CERT_REQUIRED if demanding else ssl.CERT_NONE
        return context

    @property
    def trusting(self) -> str:
        """Options of a URL: this CA is trusted."""
        return f"ssl_ca_certs={self.ca}"

    @property
    def presenting(self) -> str:
        """Options of a URL: this CA is trusted, and the client's certificate is presented."""
        cert, key = self.client
        password = self.PASSWORD.replace(" ", "%20")
        return f"{self.trusting}&ssl_certfile={cert}&ssl_keyfile={key}&ssl_password={password}"


class Key:
    """An NKey.

    Attributes:
        seed: what is secret of it.
        public: what is not.
    """

    def __init__(self, kind: int = nkeys.PREFIX_BYTE_USER) -> None:
        self.seed: str = nkeys.encode_seed(os.urandom(32), kind).decode()
        self.public: str = nkeys.from_seed(bytearray(self.seed.encode())).public_key.decode()

    def sign(self, name: str, subject: Key, nats: dict[str, Any]) -> str:
        """A JWT about ``subject``."""
        claims = {
            "jti": name,
            "iat": 1_700_000_000,
            "iss": self.public,
            "name": name,
            "sub": subject.public,
            "nats": {**nats, "version": 2},
        }
        text = ".".join(map(_encoded, ({"typ": "JWT", "alg": "ed25519-nkey"}, claims)))
        signature = nkeys.from_seed(bytearray(self.seed.encode())).sign(text.encode())
        return f"{text}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


def _encoded(part: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")


class Operator:
    """An operator of NATS with an account, and that of the system, which JetStream needs."""

    def __init__(self) -> None:
        self._operator = Key(nkeys.PREFIX_BYTE_OPERATOR)
        self._account = Key(nkeys.PREFIX_BYTE_ACCOUNT)
        self._system = Key(nkeys.PREFIX_BYTE_ACCOUNT)

    def config(self, folder: Path) -> str:
        """The configuration of a server that knows them."""
        jwt = folder / "operator.jwt"
        jwt.write_text(self._operator.sign("operator", self._operator, {"type": "operator"}))
        unlimited = ("subs", "conn", "leaf", "imports", "exports", "data", "payload")
        limits = {**dict.fromkeys(unlimited, -1), "wildcards": True}
        nats = {"type": "account", "limits": limits}
        accounts = "\n".join(
            f'{each.public}: "{self._operator.sign("a", each, nats)}"'
            for each in (self._account, self._system)
        )
        return f"""
            operator: "{jwt}"
            resolver: MEMORY
            system_account: {self._system.public}
            resolver_preload: {{ {accounts} }}
        """

    def credentials(self) -> str:
        """A file of credentials of a new user."""
        user = Key()
        limits = {"subs": -1, "data": -1, "payload": -1}
        jwt = self._account.sign("user", user, {"type": "user", "pub": {}, "sub": {}, **limits})
        return (
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            "************************* IMPORTANT *************************\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{user.seed}\n------END USER NKEY SEED------\n"
        )
