"""The HTTP server: waitress, which reads a whole request before using a thread, so that slow clients block none."""

import logging
import os
import socket

import waitress
from flask import Flask

MAX_THREADS = 4  # requests processed at once, given enough cores; others wait
MAX_CONNECTIONS = 400  # further clients wait for a free one; within select's limit on all systems
IDLE_S = 10  # seconds after which a connection without traffic is closed


def run(app: Flask, listener: socket.socket, url_prefix: str = "") -> None:
    """Serves on a listening socket until a KeyboardInterrupt; requests in progress are still answered.

    A prefix, such as `/digits`, is the path at which a reverse proxy publishes the service.
    """
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # it warns about every request that waits
    server = waitress.create_server(
        app,
        sockets=[listener],
        url_prefix=url_prefix,
        threads=min(os.cpu_count() or 1, MAX_THREADS),
        connection_limit=MAX_CONNECTIONS,
        channel_timeout=IDLE_S,
        cleanup_interval=1,
        ident=None,
    )
    server.run()
