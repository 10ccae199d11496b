"""What can be wrong between this gateway and its broker.

GatewayError
└── LinkError
    ├── TlsUnusable        the files of [mqtt.tls] can't be used: each text names the file
    └── BrokerUnavailable  no session with the broker, or not any more; tried again for ever
"""

from gateway.errors import GatewayError


class LinkError(GatewayError):
    """The link to the broker can't be used."""


class TlsUnusable(LinkError):
    """A file of [mqtt.tls] can't be used; the text names it. There is no way on without it."""


class BrokerUnavailable(LinkError):
    """There is no session with the broker.

    `kind` groups failures for the log: dns, refused, tls, login, timeout, network, handshake,
    protocol, lost.
    `other_version` says that the broker was reached and did not understand the protocol version.
    """

    def __init__(self, kind: str, text: str, *, other_version: bool = False) -> None:
        self.kind = kind
        self.other_version = other_version
        super().__init__(text)
