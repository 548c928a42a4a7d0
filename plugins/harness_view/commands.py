"""`harness view`: a server on this machine, for one person or a few."""

from __future__ import annotations

import ipaddress
import os
import secrets
import socket
import sys
from argparse import ArgumentParser, Namespace
from contextlib import suppress
from pathlib import Path

from harness import Document, UsageError
from harness.internals import missing_modules_message

DEFAULT_PORT = 8765


def view(parser: ArgumentParser) -> None:
    """watch, list and compare runs, and label a judge's rows, in a browser"""
    parser.set_defaults(command=_run_view_server, group="look")
    parser.epilog = """examples:
  harness view
  harness view reports --host 10.0.0.7"""
    where = "folder of run folders (default: reports)"
    parser.add_argument("reports", type=Path, nargs="?", default=Path("reports"), metavar="REPORTS", help=where)
    parser.add_argument(
        "--port",
        type=int,
        default=DEFAULT_PORT,
        metavar="N",
        help=f"port, 0 for any free one (default: {DEFAULT_PORT})",
    )
    host = "another address of this machine, reachable by others (default: 127.0.0.1)"
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help=host)


def _run_view_server(args: Namespace) -> Document[dict[str, str]]:
    try:
        from harness_view.app import make_app, make_server
        from harness_view.runs import Runs
    except ModuleNotFoundError as error:
        raise UsageError(f"harness view: {missing_modules_message(error.name)}") from None
    if not (runs := Runs(args.reports)).list_runs():
        raise UsageError(f"{args.reports}: contains no run; name the folder of the run folders")
    listening = _open_listening_socket(args)
    host, port = listening.getsockname()[:2]
    name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    hosts = {name, f"localhost:{port}"} if ipaddress.ip_address(host).is_loopback else {name}
    token = secrets.token_urlsafe(24)
    url = f"http://{name}/?token={token}"
    print(url, flush=True)
    print("ctrl-c ends it", file=sys.stderr)
    with suppress(KeyboardInterrupt), listening:
        make_server(make_app(runs, frozenset(hosts), token)).run(sockets=[listening])
    return Document({"url": url})


def _open_listening_socket(args: Namespace) -> socket.socket:
    try:
        address = ipaddress.ip_address(args.host)
    except ValueError:
        raise UsageError(
            f'--host "{args.host}": is not an address; name one of this machine, such as 10.0.0.7'
        ) from None
    if address.is_unspecified:  # the names by which it is reached could not be told from others
        raise UsageError(f'--host "{args.host}": means every address; name the one that others use')
    if not 0 <= args.port < 1 << 16:
        raise UsageError(f"--port is {args.port}; it must be from 1 to 65,535, or 0 for any free one")
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    try:
        return socket.create_server((args.host, args.port), family=family)
    except OSError as error:
        why = f"cannot be used: {os.strerror(error.errno or 0)}; choose another --port, 0 for any"
        raise UsageError(f"{args.host}:{args.port}: {why}") from None
