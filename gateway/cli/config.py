"""`door-gateway config`: check a site's file, and write down what each process may reach."""

import argparse
import ipaddress
import socket
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from gateway.cli import EXIT_COULD_NOT, EXIT_OK, Command
from gateway.cli.common import add_json, counted, print_json
from gateway.cli.output import visible, visible_lines
from gateway.config.site import SiteConfig, load
from gateway.config.tables import join
from gateway.drivers import REGISTRY
from gateway.errors import ConfigError, Fault, GatewayError
from gateway.processes.downlink import installed_root

_DESCRIPTION = """\
Check a site's file without touching a device (`check`), or write the systemd drop-ins that let the
core reach the site's relay boards and the link its broker, and nothing else (`drop-ins`)."""

_EXAMPLE = """\
example:
  door-gateway config check /etc/door-gateway/site.toml
  door-gateway config drop-ins /etc/door-gateway/site.toml --to /etc/systemd/system"""


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = _DESCRIPTION, _EXAMPLE
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)
    form = argparse.RawDescriptionHelpFormatter
    check = actions.add_parser(
        "check",
        help="name everything that is wrong, with its path; exits 2 if anything is",
        epilog="example:\n  door-gateway config check config/site.toml",
        formatter_class=form,
    )
    check.add_argument("file", type=Path, metavar="FILE")
    add_json(check)
    drop_ins = actions.add_parser(
        "drop-ins",
        help="write relay-lan.conf and broker.conf for systemd",
        epilog="example:\n  door-gateway config drop-ins config/site.toml --to /etc/systemd/system",
        formatter_class=form,
    )
    drop_ins.add_argument("file", type=Path, metavar="FILE")
    drop_ins.add_argument("--to", type=Path, required=True, metavar="DIR")
    add_json(drop_ins)


def _run(options: argparse.Namespace) -> int:
    return _check(options) if options.action == "check" else _drop_ins(options)


def _check(options: argparse.Namespace) -> int:
    faults: tuple[Fault, ...] = ()
    warnings: tuple[Fault, ...] = ()
    config: SiteConfig | None = None
    try:
        config = load(options.file, REGISTRY)
        warnings = (*config.warnings, *_missing(config))
        if config.trust is not None:
            installed_root(config.trust, config.site.id)
    except ConfigError as error:
        faults = error.faults
    if options.json:
        print_json(
            {
                "file": str(options.file),
                "ok": not faults,
                "faults": [fault._asdict() for fault in faults],
                "warnings": [warning._asdict() for warning in warnings],
            }
        )
        return EXIT_COULD_NOT if faults else EXIT_OK
    for warning in warnings:
        print(visible(f"{options.file}: warning: {warning}"), file=sys.stderr)
    for fault in faults:
        print(visible_lines(f"{options.file}: {fault}"), file=sys.stderr)
    if config is None or faults:
        return EXIT_COULD_NOT
    doors, devices = counted(len(config.doors), "door"), counted(len(config.devices), "device")
    print(f"{options.file}: {doors}, {devices}, no fault")
    return EXIT_OK


def _missing(config: SiteConfig) -> Iterator[Fault]:
    """What the devices' settings name and this machine has not, as far as this user may see."""
    for name, device in config.devices.items():
        for member, what in device.driver.missing(device.settings):
            yield Fault(f"{join('devices', name)}.{member}", what)


def _drop_ins(options: argparse.Namespace) -> int:
    config = load(options.file, REGISTRY)
    hosts = {
        host
        for device in config.devices.values()
        if (host := getattr(device.settings, "host", None)) is not None
    }
    # Every name is looked up before anything is written: all of the drop-ins, or none.
    wanted: list[tuple[str, str, list[str]]] = []
    if hosts:
        lines = ["PrivateNetwork=no", "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6"]
        lines += [f"IPAddressAllow={address}" for address in _addresses(hosts)]
        wanted.append(("door-gateway-core", "relay-lan.conf", lines))
    if config.mqtt is not None:
        lines = [f"IPAddressAllow={address}" for address in _addresses([config.mqtt.host])]
        wanted.append(("door-gateway-link", "broker.conf", lines))
    written = list[Path]()
    try:
        for unit, name, lines in wanted:
            written.append(_write(options.to, unit, name, lines))
    except GatewayError:
        for path in written:
            print(f"wrote {path}, before the failure below", file=sys.stderr)
        raise
    if options.json:
        print_json({"written": [str(path) for path in written]})
    else:
        for path in written:
            print(f"wrote {path}")
        print(
            "now: systemctl daemon-reload && systemctl restart door-gateway-core door-gateway-link"
        )
    return EXIT_OK


def _addresses(hosts: Iterable[str]) -> list[str]:
    """The addresses of hosts, each once; a name is looked up now."""
    found = set()
    for host in hosts:
        try:
            answers = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except OSError as error:
            raise GatewayError(f"{host}: can't be resolved: {error}") from error
        found |= {ipaddress.ip_address(answer[4][0]) for answer in answers}
    return sorted(map(str, found))


def _write(directory: Path, unit: str, name: str, lines: list[str]) -> Path:
    path = directory / f"{unit}.service.d" / name
    text = "# Written by `door-gateway config drop-ins`.\n[Service]\n" + "\n".join(lines) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise GatewayError(f"{path}: can't be written: {error.strerror}") from error
    return path


COMMAND = Command(_configure, _run)
