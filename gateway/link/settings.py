"""What the composition root tells the link: [mqtt] of site.toml, and the link's own pace."""

from pathlib import Path

import msgspec

from gateway.link.report import REPORT_EVERY_S


class TlsSettings(msgspec.Struct, frozen=True, kw_only=True):
    """[mqtt.tls]: PEM files. They are read anew for every session, so that a rotation is seen."""

    ca: Path
    certificate: Path
    key: Path


class LoginSettings(msgspec.Struct, frozen=True, kw_only=True):
    """[mqtt.login]: the file with the password is read anew for every session."""

    username: str
    password_file: Path


class HomeAssistantSettings(msgspec.Struct, frozen=True, kw_only=True):
    """[mqtt.home_assistant]."""

    discovery_prefix: str
    locks: bool


class Pace(msgspec.Struct, frozen=True, kw_only=True):
    """How patient the link is."""

    backoff_s_first: float = 1.0
    backoff_s_max: float = 25.0
    """With CONNECT_S_MAX on top a broker that is back has a session within 30 s (P19)."""
    stable_s: float = 30.0
    """A session that lasted as long ends the backoff: one that is taken over again and again
    doesn't."""
    probe_s_first: float = 1.0
    """How long a new session's first events may go unacknowledged before they are sent again,
    doubling: the cloud may subscribe seconds after a broker that has forgotten it is back."""
    resend_s_first: float = 30.0
    resend_s_max: float = 300.0
    """How long a cloud that acknowledges nothing is waited for, doubling from first to max."""
    rest: float = 4.0
    """How long to rest after a full batch, in times of what the core took to answer: a backlog
    leaves the core four fifths of its time, and more when people are at the doors."""
    ack_s: float = 1.0
    """Between acknowledgements handed to the core, each of which is a commit that a tap may have
    to wait for."""
    health_s: float = 60.0
    report_s: float = REPORT_EVERY_S
    """Between reports to the core on the session with the broker."""
    core_retry_s: float = 1.0
    """Between attempts to reach the core, which is on this machine and back within 3 s (P19)."""


class LinkSettings(msgspec.Struct, frozen=True, kw_only=True):
    """[mqtt] of site.toml, and who this gateway is."""

    host: str
    port: int
    keepalive_s: int
    tls: TlsSettings | None
    """None is plain text, for a broker on this machine."""
    site: str
    gateway: str
    sealed: bool = False
    """The source of truth signs ([trust]): what it sends goes to the core unread."""
    local: bool = False
    """No cloud acknowledges ([journal] keep = "local"): the broker's PUBACK counts as delivered."""
    login: LoginSettings | None = None
    home_assistant: HomeAssistantSettings | None = None
    announced: Path | None = None
    """The file with the list of what is retained on the broker; None: it is not kept."""
    """None: nothing is announced."""
    pace: Pace = Pace()
