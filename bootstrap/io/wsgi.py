"""Serves a WSGI application on a UNIX socket that nginx alone can reach (gunicorn, threads).

The socket takes the group of its directory, which is nginx's. It never listens on the network and
logs no request.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication  # type: ignore[import-untyped]

from bootstrap.errors import SiteError


def serve(app: Flask, path: Path, *, threads: int, seconds: int) -> None:
    """Serve until SIGTERM; a worker that is silent for `seconds` is replaced."""
    listener = _listen(path)
    _Server(
        app,
        {
            "bind": f"fd://{listener.fileno()}",
            "workers": 1,
            "worker_class": "gthread",
            "threads": threads,
            "timeout": seconds,
            "graceful_timeout": 5,
            "keepalive": 30,
            "worker_tmp_dir": "/dev/shm",
            "loglevel": "warning",
            "accesslog": None,
            "control_socket_disable": True,
        },
    ).run()


class _Server(BaseApplication):  # type: ignore[misc]
    def __init__(self, app: Flask, options: dict[str, Any]) -> None:
        self._app, self._options = app, options
        super().__init__()

    def load_config(self) -> None:
        """Take our options; no file and no argument is read."""
        for key, value in self._options.items():
            self.cfg.set(key, value)

    def load(self) -> Flask:
        """Give the application."""
        return self._app


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        path.chmod(0o660)
    except OSError as error:
        raise SiteError(f"cannot listen on {path}: {error.strerror}") from error
    listener.listen(256)
    listener.set_inheritable(True)
    return listener
