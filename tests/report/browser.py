"""A headless Chromium that tests steer over a pipe, by Chrome's DevTools protocol."""

import base64
import contextlib
import itertools
import json
import os
import pathlib
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from typing import Any

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
WHY_NOT = "No Chromium is installed; `apt-get install chromium` brings one."


class Browser:
    """One page. `problems` are errors of its console, exceptions and refused loads so far."""

    def __init__(self, process: subprocess.Popen, read: int, write: int):
        self._process, self._read, self._write = process, read, write
        self._numbers = itertools.count(1)
        self._rest = b""
        self._events: list[dict[str, Any]] = []
        self.problems: list[str] = []
        self.requests: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "Performance"):
            self.call(f"{domain}.enable")

    _session: str | None = None

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of a command of the protocol."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def open(self, path: pathlib.Path, hash: str = "") -> float:
        """Opens a file; the seconds until its script says that the page is ready."""
        started = time.monotonic()
        self.call("Page.navigate", url=path.resolve().as_uri() + hash)
        self.wait_for("document.documentElement?.dataset.ready === 'yes'")
        return time.monotonic() - started

    def run(self, script: str) -> Any:
        """The value of an expression, awaited where it is a promise.

        Raises:
          RuntimeError: it threw.
        """
        result = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in result:
            raise RuntimeError(f"{script}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def wait_for(self, condition: str, seconds: float = 30.0) -> None:
        """Returns when an expression is true."""
        end = time.monotonic() + seconds
        while not self.run(f"Boolean({condition})"):
            if time.monotonic() > end:
                raise TimeoutError(f"{condition} did not become true; {self.problems}")
            time.sleep(0.02)

    def seconds_of_work(self) -> float:
        """The processor's time that the page's process has taken so far."""
        metrics = self.call("Performance.getMetrics")["metrics"]
        return {each["name"]: each["value"] for each in metrics}["ProcessTime"]

    def picture(self, path: pathlib.Path, whole: bool = False) -> None:
        """Writes a PNG of what is in sight, or of the whole page."""
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))

    def _next(self, seconds: float = 120.0) -> dict[str, Any]:
        while b"\0" not in self._rest:
            if not select.select([self._read], [], [], seconds)[0]:
                raise TimeoutError(f"Chromium says nothing for {seconds} s.")
            more = os.read(self._read, 1 << 20)
            if not more:
                raise RuntimeError(f"Chromium has ended with {self._process.wait()}.")
            self._rest += more
        text, _, self._rest = self._rest.partition(b"\0")
        message = json.loads(text)
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, method: str | None, params: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.problems.append(details.get("exception", details).get("description", str(details)))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.problems.append(str([each.get("value") for each in params["args"]]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.problems.append(params["entry"]["text"])
        elif method == "Page.javascriptDialogOpening":
            self.problems.append(f"dialog: {params['message']}")
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])


@contextlib.contextmanager
def chromium(profile: pathlib.Path, size: tuple[int, int] = (1280, 900)) -> Iterator[Browser]:
    """A browser with a profile of its own; it is ended in the end."""
    there, write = os.pipe()
    read, back = os.pipe()
    command = (
        f'exec "$0" --headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage '
        f"--no-first-run --disable-background-networking --disable-component-update "
        f'--remote-debugging-pipe --user-data-dir="$1" --window-size={size[0]},{size[1]} '
        f"about:blank 3<&{there} 4>&{back}"
    )
    process = subprocess.Popen(
        ["bash", "-c", command, CHROMIUM, str(profile)],
        pass_fds=(there, back), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(there)
    os.close(back)
    try:
        yield Browser(process, read, write)
    finally:
        os.close(write)
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(read)
