"""Addresses of stores for runs: whether one is legal, and whether anything answers there."""

from __future__ import annotations

import os
import socket
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import SplitResult, parse_qs, quote, urlsplit

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
PORTS = {"postgresql": 5432, "mysql": 3306}
"""The usual ports of databases whose addresses name a host."""


def find_problem(uri: str) -> str:
    """Return what is wrong with an address, to follow it in a sentence; empty: nothing."""
    try:
        address = urlsplit(uri)
        _ = address.port  # which is read when it is asked for
    except ValueError as error:
        return f"is no address: {error}"
    scheme = address.scheme.partition("+")[0]
    if scheme == "sqlite" and len(address.path) < 2:
        return "names no file; legal: sqlite:///path/file.db"
    database = sqlite_file(uri)
    if database is not None and (what := _misfit(database)):
        return f"{what}; give another file"
    if scheme in ("http", "https") and not address.hostname:
        return "names no host; legal: e.g. http://localhost:5000"
    if scheme in (*DATABASES, "http", "https", "databricks"):
        return ""
    return (
        "is no store for runs; legal: sqlite:///path/file.db, another database (postgresql, mysql, "
        "mssql), or a server (http, https)"
    )


def sqlite_file(uri: str) -> Path | None:
    """Return the file of a database that is one."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def find_silence(uri: str, seconds: float) -> tuple[str, str]:
    """Return why nothing answers at an address within `seconds`, and what to do; empty: it does.

    What says nothing of a host is not asked: a file, a socket, a name of a driver's own.
    """
    address = urlsplit(uri)
    scheme = address.scheme.partition("+")[0]
    if scheme in ("http", "https"):
        hint = "start the server (mlflow server), look at HTTPS_PROXY and NO_PROXY"
        return _ask_server(uri, seconds), hint
    if scheme in PORTS and address.hostname:
        hint = "start the database, look at its host and port"
        return _ask_database(address, PORTS[scheme], seconds), hint
    return "", ""


def _ask_server(uri: str, seconds: float) -> str:
    import requests  # what MLflow asks with: the same proxies and certificates

    insecure = os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("1", "true")
    certificates = os.environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or True
    try:
        answer = requests.get(
            f"{uri.rstrip('/')}/health",
            timeout=seconds,
            verify=False if insecure else certificates,
        )
        # Any other refusal is a server's own; these are a proxy's that found none.
        return f"status {answer.status_code}" if answer.status_code in (502, 503, 504) else ""
    except (OSError, ValueError) as error:  # an address can be malformed, too
        return " ".join(str(error).split())


def _ask_database(address: SplitResult, port: int, seconds: float) -> str:
    if {"host", "unix_socket"} & {*parse_qs(address.query)}:  # a socket
        return ""
    try:
        socket.create_connection((address.hostname, address.port or port), seconds).close()
    except OSError as error:
        return str(error)
    return ""


def _misfit(database: Path) -> str:
    """Return why runs cannot be kept in a file; empty: it has MLflow's tables, or may get them."""
    if not database.exists():
        return ""
    start = b"unreadable"
    with suppress(OSError), database.open("rb") as stream:
        start = stream.read(16)
    if start not in (b"", b"SQLite format 3\0"):
        return "is no SQLite database"
    address = f"file:{quote(str(database))}?mode=ro"
    with (
        suppress(sqlite3.Error),  # locked, or damaged: it is said when the run begins
        closing(sqlite3.connect(address, uri=True, timeout=0)) as connection,
    ):
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
        if tables and "experiments" not in tables:
            return "is the database of something else than MLflow"
    return ""
