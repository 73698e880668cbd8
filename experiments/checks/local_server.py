"""An HTTP server on a free port of this machine that answers as a function says."""

import contextlib
import json
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


class LocalServer:
    """Serves while its block runs; `url` ends with `/v1`, as those of OpenAI's interfaces do.

    Args:
      answer: gives the status and the body of an answer, JSON or the bytes of a page, to the path,
        the headers and the JSON of a request; called by as many threads as there are requests.
    """

    def __init__(
        self, answer: Callable[[str, Mapping[str, str], Any], tuple[int, dict[str, Any] | bytes]]
    ):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, value = answer(self.path, self.headers, asked)
                page = isinstance(value, bytes)
                data = value if page else json.dumps(value).encode()
                with contextlib.suppress(OSError):  # the client may have hung up
                    self.send_response(status)
                    self.send_header("Content-Type", "text/html" if page else "application/json")
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)

            def log_message(self, *arguments):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exception) -> None:
        self._server.shutdown()
        self._server.server_close()
