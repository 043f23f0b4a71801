# Copyright (C) 2026 The anople_anomalib authors
# SPDX-License-Identifier: Apache-2.0

"""Receivers of signals: services, brokers and controllers that take the rows of judged images, see :mod:`.outbox`.

An address names a receiver:

- ``https://host/path``: a POST of the row as JSON. ``ANOPLE_SIGNAL_TOKEN`` is sent as a bearer token;
  ``ANOPLE_SIGNAL_SECRET`` signs the body, ``X-Anople-Signature: sha256=<HMAC in hexadecimal digits>``.
- ``mqtt://user@host:1883/topic`` (``mqtts`` for TLS): the row as JSON with quality of service 1;
  ``ANOPLE_SIGNAL_PASSWORD`` is the password of the user.
- ``opc.tcp://host:4840/path?node=ns=2;s=Verdict``: the verdict's text in a variable of type String, or in one of type
  Boolean whether the part is OK.
- ``file:/path``: the verdict's text in a file, replaced as a whole.
- ``stdout``: a line of JSON.
"""

import hashlib
import hmac
import json
import logging
import os
import sys
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

from anople_anomalib.utils.files import written_whole

from .table import OK

logger = logging.getLogger(__name__)

_TIMEOUT = 5.0
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


class Receiver(Protocol):
    """The other end of a signal."""

    def send(self, row: Mapping[str, Any]) -> None:
        """Deliver a row; return once it is acknowledged, raise whatever is wrong otherwise."""

    def close(self) -> None:
        """End the connection; of most receivers there is none."""
        return


class Webhook(Receiver):
    """A service that takes rows by HTTP.

    Args:
        url: Its address.
        token: Bearer token, empty for none.
        secret: Key of the signature, empty for none.

    Raises:
        ValueError: If a token would travel in the clear.
    """

    def __init__(self, url: str, token: str = "", secret: str = "") -> None:
        parts = urlsplit(url)
        if token and parts.scheme == "http" and parts.hostname not in _LOOPBACK:
            msg = f"The token would travel to {parts.hostname} in the clear: use https, or unset ANOPLE_SIGNAL_TOKEN."
            raise ValueError(msg)
        self._url, self._token, self._secret = url, token, secret.encode()
        self._opener = urllib.request.build_opener(_NoRedirects)

    def send(self, row: Mapping[str, Any]) -> None:
        """Post a row; any answer but 2xx is an error."""
        body = json.dumps(row).encode()
        headers = {"Content-Type": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        if self._secret:
            headers["X-Anople-Signature"] = "sha256=" + hmac.new(self._secret, body, hashlib.sha256).hexdigest()
        request = urllib.request.Request(self._url, body, headers, method="POST")  # noqa: S310  # http and https alone
        with self._opener.open(request, timeout=_TIMEOUT) as answer:
            answer.read()


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect is an error: it would turn the POST into a GET without a body, and might lead the token elsewhere."""

    def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:
        """Follow none."""


class MqttTopic(Receiver):
    """A topic of an MQTT broker.

    Args:
        host: The broker.
        port: Its port.
        topic: The topic.
        user: Name of the user, empty for none.
        password: Password of the user.
        tls: Whether the connection is encrypted.

    Raises:
        ImportError: If paho-mqtt is not installed.
    """

    def __init__(
        self, host: str, port: int, topic: str, user: str = "", password: str = "", *, tls: bool = False
    ) -> None:
        _require("paho.mqtt", "paho-mqtt")
        self._address, self._topic, self._user, self._password, self._tls = (host, port), topic, user, password, tls
        self._client: Any = None

    def send(self, row: Mapping[str, Any]) -> None:
        """Publish a row, and wait until the broker has acknowledged it."""
        if self._client is None:
            self._client = self._connected()
        try:
            message = self._client.publish(self._topic, json.dumps(row), qos=1)
            message.wait_for_publish(_TIMEOUT)
            if not message.is_published():
                error = "the broker does not acknowledge"
                raise TimeoutError(error)
        except Exception:  # whatever it is: the client would send its own copy later, behind newer rows
            self.close()
            raise

    def close(self) -> None:
        """End the connection."""
        if self._client is not None:
            self._client.disconnect()
            self._client.loop_stop()
            self._client = None

    def _connected(self) -> Any:
        """Return a client with a connection."""
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion

        client = Client(CallbackAPIVersion.VERSION2)
        if self._user:
            client.username_pw_set(self._user, self._password)
        if self._tls:
            client.tls_set()
        client.connect(*self._address)
        client.loop_start()
        return client


class OpcUaNode(Receiver):
    """A variable of an OPC UA server.

    Args:
        url: The server.
        node: Identifier of the variable, such as ``ns=2;s=Verdict``.

    Raises:
        ImportError: If asyncua is not installed.
    """

    def __init__(self, url: str, node: str) -> None:
        _require("asyncua", "asyncua")
        self._url, self._node = url, node
        self._client: Any = None

    def send(self, row: Mapping[str, Any]) -> None:
        """Write the verdict, as the variable's type wants it."""
        from asyncua import ua
        from asyncua.sync import Client

        try:
            if self._client is None:
                self._client = Client(self._url, timeout=_TIMEOUT)
                self._client.connect()
            variable = self._client.get_node(self._node)
            kind = variable.read_data_type_as_variant_type()
            value = row["verdict"] == OK if kind == ua.VariantType.Boolean else str(row["verdict"])
            variable.write_value(ua.DataValue(ua.Variant(value, kind)))
        except Exception:  # whatever it is, of asyncua's many kinds: the next row takes a new connection
            self.close()
            raise

    def close(self) -> None:
        """End the connection."""
        client, self._client = self._client, None
        if client is not None:
            try:
                client.disconnect()
            except Exception as error:  # noqa: BLE001  # of a connection that is broken anyway
                logger.debug("OPC UA: %s", error)


class FlagFile(Receiver):
    """A file that holds the last verdict.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def send(self, row: Mapping[str, Any]) -> None:
        """Replace the file."""
        with written_whole(self._path) as temporary:
            temporary.write_text(f"{row['verdict']}\n", encoding="utf-8")


class StandardOutput(Receiver):
    """Lines of JSON on the standard output."""

    def send(self, row: Mapping[str, Any]) -> None:
        """Print a row."""
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()


def receiver_of(address: str) -> Receiver:
    """Return the receiver that an address names, see the module's docstring.

    Raises:
        ImportError: If its library is not installed.
        ValueError: If the address is none.
    """
    parts, secrets = urlsplit(address), os.environ
    try:
        port, host = parts.port, parts.hostname
    except ValueError:  # a port that is no number
        port, host = None, None
    match parts.scheme:
        case "" if address == "stdout":
            return StandardOutput()
        case "file" if parts.path:
            return FlagFile(Path(unquote(parts.path)))
        case "http" | "https" if host:
            return Webhook(address, secrets.get("ANOPLE_SIGNAL_TOKEN", ""), secrets.get("ANOPLE_SIGNAL_SECRET", ""))
        case "mqtt" | "mqtts" if host and parts.path.strip("/"):
            tls = parts.scheme == "mqtts"
            user, password = unquote(parts.username or ""), secrets.get("ANOPLE_SIGNAL_PASSWORD", "")
            return MqttTopic(host, port or (8883 if tls else 1883), unquote(parts.path[1:]), user, password, tls=tls)
        case "opc.tcp" if host and (node := parse_qs(parts.query, separator="&").get("node")):
            return OpcUaNode(address.partition("?")[0], node[0])
    msg = (
        "A signal goes to https://HOST/PATH, mqtt://HOST/TOPIC, opc.tcp://HOST:PORT?node=NODE, file:/PATH or stdout, "
        f"got {address!r}."
    )
    raise ValueError(msg)


def _require(module: str, package: str) -> None:
    """Refuse a receiver whose library is missing, before anything is judged."""
    try:
        __import__(module)
    except ImportError as error:
        msg = f"These signals need a library: pip install {package}."
        raise ImportError(msg) from error
