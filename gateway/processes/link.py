"""The link process: the MQTT session; no device, and no say in any decision."""

import asyncio
import contextlib
import os
import random
import signal
from pathlib import Path

from gateway.clock import SystemClock, voucher
from gateway.config.site import SiteConfig
from gateway.errors import ConfigError, Fault
from gateway.link.run import run_link
from gateway.link.settings import HomeAssistantSettings, LinkSettings, LoginSettings, TlsSettings
from gateway.notify import notify, watchdog_interval

CREDENTIAL = "mqtt.password"
"""The password's name among what a service manager hands over (`LoadCredential=` in a drop-in)."""


ANNOUNCED = "announced.json"
"""The list of what is retained on the broker, in the link's state directory."""


async def run(config: SiteConfig, *, rng: random.Random) -> None:
    """Relay until SIGTERM or SIGINT.

    Raises:
        ConfigError: the site has no broker.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    link = asyncio.create_task(
        run_link(
            _settings(config),
            Path(config.state.socket),
            SystemClock(floor=None, vouched=voucher(config.clock.trust)),
            rng,
        )
    )
    watchdog = asyncio.create_task(_feed_watchdog())
    stopped = asyncio.create_task(stop.wait())
    notify("READY=1")
    try:
        await asyncio.wait((link, stopped), return_when=asyncio.FIRST_COMPLETED)
        notify("STOPPING=1")
        if link.done():
            link.result()
    finally:
        for task in (link, watchdog, stopped):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def _settings(config: SiteConfig) -> LinkSettings:
    mqtt = config.mqtt
    if mqtt is None:
        raise ConfigError("site.toml", [Fault("mqtt", "is missing: there is no broker to talk to")])
    tls = mqtt.tls
    return LinkSettings(
        host=mqtt.host,
        port=mqtt.port,
        keepalive_s=mqtt.keepalive_s,
        tls=None
        if tls is None
        else TlsSettings(ca=Path(tls.ca), certificate=Path(tls.certificate), key=Path(tls.key)),
        login=None
        if mqtt.login is None
        else LoginSettings(
            username=mqtt.login.username, password_file=_password_file(mqtt.login.password_file)
        ),
        home_assistant=None
        if mqtt.home_assistant is None
        else HomeAssistantSettings(
            discovery_prefix=mqtt.home_assistant.discovery_prefix, locks=mqtt.home_assistant.locks
        ),
        site=config.site.id,
        gateway=config.site.gateway,
        announced=_state(config) / ANNOUNCED,
        sealed=config.trust is not None,
        local=config.keeps_locally,
    )


def _state(config: SiteConfig) -> Path:
    """The link's own directory from systemd (`StateDirectory=`), or else the site's."""
    own = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    return Path(own or config.state.dir)


def _password_file(configured: str) -> Path:
    """Among the credentials that systemd handed over (systemd.exec(5)), or else where the site's
    file says.
    """
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    handed = Path(directory) / CREDENTIAL if directory else None
    return handed if handed is not None and handed.exists() else Path(configured)


async def _feed_watchdog() -> None:
    """The link's watchdog only says that the loop turns: a broker that is away is no fault."""
    interval = watchdog_interval()
    while interval is not None:
        notify("WATCHDOG=1")
        await asyncio.sleep(interval.total_seconds())
