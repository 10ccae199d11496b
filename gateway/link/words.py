"""A broker's refusals in plain words, with what to do about them."""

import ssl

from paho.mqtt.reasoncodes import ReasonCode

_ADVICE = {
    "Not authorized": "Check this gateway's certificate or login, and the broker's access list",
    "Bad user name or password": "Check [mqtt.login] and its password file",
    "Bad authentication method": "Check [mqtt.login]: the broker wants another way to log in",
    "Banned": "The broker's operator has blocked this gateway",
    "Client identifier not valid": "Let the broker accept ids that begin with acs:",
    "Retain not supported": "Allow retained messages (mosquitto: retain_available true)",
    "QoS not supported": "The gateway needs QoS 1",
    "Session taken over": "A second link runs with the same site and gateway id: stop one of them",
    "Quota exceeded": "Raise this gateway's quota at the broker",
    "Connection rate exceeded": "Raise this gateway's connection rate at the broker",
}
"""By the names that paho gives the reason codes of MQTT 5 (OASIS, MQTT 5.0, 2.4) and 3.1.1."""

_ALERTS = {
    "UNKNOWN_CA": "it doesn't know who signed our certificate",
    "CERTIFICATE_EXPIRED": "it says that our certificate has expired",
    "CERTIFICATE_REVOKED": "it says that our certificate is revoked",
    "CERTIFICATE_REQUIRED": "it wants a certificate, which [mqtt.tls] names none for",
    "BAD_CERTIFICATE": "it does not accept our certificate",
    "CERTIFICATE_UNKNOWN": "it does not accept our certificate",
    "UNSUPPORTED_CERTIFICATE": "it does not accept this kind of certificate",
    "ACCESS_DENIED": "it does not accept our certificate",
    "WRONG_VERSION_NUMBER": "this port speaks no TLS",
    "PROTOCOL_VERSION": "it speaks no TLS 1.2 or later",
}
"""By the last words of OpenSSL's names for the alerts of RFC 8446, 6.2."""


def refusal(reason: ReasonCode) -> str:
    """The broker's answer to CONNECT, with advice."""
    return f"the broker refused: {explained(reason)}"


def explained(reason: ReasonCode) -> str:
    """A reason code with advice, where there is some."""
    advice = _ADVICE.get(str(reason))
    return f"{reason}. {advice}" if advice else str(reason)


def tls_alert(failed: OSError) -> str:
    """The failure of a TLS handshake in plain words; OpenSSL's own where they are all there is."""
    if isinstance(failed, ssl.SSLCertVerificationError):
        why = failed.verify_message or str(failed)
        return f"the broker's certificate is not accepted: {why}. Check [mqtt.tls] ca and the host"
    name = getattr(failed, "reason", None) or ""
    for alert, words in _ALERTS.items():
        if name.endswith(alert):
            return f"{words} ({name})"
    return str(failed)
