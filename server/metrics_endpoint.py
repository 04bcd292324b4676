"""Where Prometheus reads the metrics."""

from __future__ import annotations

from wsgiref.simple_server import WSGIServer

from prometheus_client import start_http_server

from server.metrics import Metrics


class MetricsEndpoint:
    """Serves the registry over HTTP on a thread of its own."""

    def __init__(self, metrics: Metrics, host: str, port: int) -> None:
        """Listen on `host`:`port`.

        Raises:
            OSError: The port is taken.
        """
        server, thread = start_http_server(port, addr=host, registry=metrics.registry)
        self._server: WSGIServer = server
        self._thread = thread

    @property
    def port(self) -> int:
        """The port listened on."""
        return self._server.server_port

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
