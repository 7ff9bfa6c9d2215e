"""gunicorn around the app: processes, threads, and an end to clients that never finish."""

import contextlib
import json
import socket
import time
from collections.abc import Callable
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.http.errors import ParseException
from gunicorn.util import close_graceful
from gunicorn.workers.gthread import TConn, ThreadWorker
from werkzeug.exceptions import BadRequest

from mnist_lightning.server.app import HEADERS

NUM_THREADS = 128
"""Requests that a process reads at a time; the app's gate decides how many of them work."""
MAX_SECONDS = 10
"""From a request's first byte to its answer's last."""


class Worker(ThreadWorker):  # type: ignore[misc]  # gunicorn ships no types
    """gunicorn's threads; a client that trickles or lingers loses its connection, and doesn't keep its thread."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.deadlines: dict[TConn, float] = {}

    def handle(self, conn: TConn) -> Any:
        """Answers a request, and waits here for the client to hang up; gunicorn would keep all others waiting."""
        self.deadlines[conn] = time.monotonic() + MAX_SECONDS
        try:
            kept = super().handle(conn)
            if kept is False:
                with contextlib.suppress(OSError):
                    close_graceful(conn.sock)
                conn.close = lambda graceful=False: None
            return kept
        finally:
            del self.deadlines[conn]

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: Exception) -> None:
        """Answers what is no HTTP as the app answers: with its reason, as JSON."""
        if not isinstance(exc, ParseException):
            super().handle_error(req, client, addr, exc)
            return
        body = json.dumps({"error": f"the request can't be read: {exc}"})
        headers = {"Connection": "close", "Content-Type": "application/json", "Content-Length": len(body), **HEADERS}
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        with contextlib.suppress(OSError):
            client.sendall(f"HTTP/1.1 400 Bad Request\r\n{head}\r\n{body}".encode())

    def notify(self) -> None:
        """Ends what takes too long; gunicorn calls this about once a second."""
        super().notify()
        now = time.monotonic()
        for conn, deadline in list(self.deadlines.items()):
            if now > deadline:
                with contextlib.suppress(OSError):  # it has just ended by itself
                    conn.sock.shutdown(socket.SHUT_RDWR)


class Server(BaseApplication):  # type: ignore[misc]
    """A gunicorn that is configured here and nowhere else.

    Args:
        make_app: Makes the app, in each process by itself.
        listener: File descriptor of a socket that is bound already; it is closed at the end.
        num_workers: Processes.
        on_ready: Called when the first process can answer.
    """

    def __init__(
        self, make_app: Callable[[], Any], listener: int, num_workers: int, on_ready: Callable[[], None]
    ) -> None:
        self.make_app = make_app
        self.settings = {
            "bind": f"fd://{listener}",
            "workers": num_workers,
            "threads": NUM_THREADS,
            "worker_class": Worker,
            "graceful_timeout": MAX_SECONDS + 5,
            "post_worker_init": lambda worker: on_ready() if worker.age == 1 else None,
            "forwarded_allow_ips": "",  # nobody's headers change who asks for what
            "loglevel": "warning",
            "accesslog": "-",
            "access_log_format": "%(t)s %(m)s %(U)s %(s)s %(M)s ms",
            "control_socket_disable": True,  # there would be one in the home folder
        }
        super().__init__()

    def load_config(self) -> None:
        """Applies the settings; files and environment are not looked at."""
        for name, value in self.settings.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        """Makes the app, and teaches it what gunicorn raises while a body is read."""
        app = self.make_app()
        broken = BadRequest("the request's body is broken")
        app.register_error_handler(ParseException, lambda error: app.handle_http_exception(broken))
        return app
