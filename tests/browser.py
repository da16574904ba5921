"""Drives headless Chromium for tests, over its debugging pipe and with the standard library alone.

    with Browser() as browser:
        page = browser.open(report)
        page.set_viewport(360, 740)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert page.problems == [] and page.requests == [report.as_uri()]

The pipe (``--remote-debugging-pipe``) carries JSON messages that end in a NUL byte: the browser reads commands
from file descriptor 3 and writes answers and events to 4. No port is opened, so tests can run side by side.
Method and event names are those of the Chrome DevTools Protocol.

Leaves out everything a user does with a mouse. `missing_browser` is the sentence why a test is skipped.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    "--disable-domain-reliability",
    "--metrics-recording-only",
    "--no-pings",
    "--mute-audio",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
MOVE_PIPES = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
READY_S = 60.0
"""Longest wait for one answer: a machine that does other work starts a browser slowly."""


class BrowserError(RuntimeError):
    """The browser ended, did not answer, or answered with an error."""


def find_chromium() -> str | None:
    """Path of a Chromium: $ISOFLOP_CHROMIUM, or the first known name on the path."""
    named = os.environ.get("ISOFLOP_CHROMIUM")
    if named:
        return named if Path(named).exists() else None
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def missing_browser() -> str | None:
    """Why a browser test has to be skipped, or None when it can run."""
    if os.name != "posix":
        return "the debugging pipe needs a POSIX system"
    if find_chromium() is None:
        return "no Chromium on this machine (install Debian's `chromium`, or set ISOFLOP_CHROMIUM)"
    return None


class Browser:
    """One headless Chromium with a profile of its own; a context manager that ends it and removes the profile."""

    def __init__(self) -> None:
        reason = missing_browser()
        if reason is not None:
            raise BrowserError(reason)
        self._profile = tempfile.mkdtemp(prefix="chromium-test-")
        self._buffer = b""
        self._next_id = 0
        self._pages: dict[str, Page] = {}
        self._start(str(find_chromium()))

    def _start(self, chromium: str) -> None:
        from_us, to_us = os.pipe(), os.pipe()
        # Both ends above 9, so that moving one to 3 cannot overwrite the other before it is moved to 4.
        read_end, write_end = (fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (from_us[0], to_us[1]))
        for fd in (from_us[0], to_us[1]):
            os.close(fd)
        self._to_browser, self._from_browser = from_us[1], to_us[0]
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (closed in `close`)
        command = [chromium, *ARGUMENTS, f"--user-data-dir={self._profile}", "about:blank"]
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", MOVE_PIPES, str(read_end), str(write_end), *command],
            pass_fds=(read_end, write_end),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )
        os.close(read_end)
        os.close(write_end)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End the browser and every process that it started, and remove its profile."""
        with contextlib.suppress(OSError, BrowserError):
            self.send("Browser.close", timeout_s=5)
        with contextlib.suppress(OSError):
            os.close(self._to_browser)
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        os.close(self._from_browser)
        self._log.close()
        shutil.rmtree(self._profile, ignore_errors=True)

    def open(self, address: Path | str) -> Page:
        """Open a file or a URL in a new tab and wait until it has loaded."""
        url = address.resolve().as_uri() if isinstance(address, Path) else address
        target = self.send("Target.createTarget", {"url": "about:blank"})["targetId"]
        session = self.send("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        page = self._pages[session] = Page(self, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.send(f"{domain}.enable")
        page.go(url)
        return page

    def send(
        self,
        method: str,
        parameters: dict[str, Any] | None = None,
        *,
        session: str | None = None,
        timeout_s: float = READY_S,
    ) -> dict[str, Any]:
        """One command and its result; events that arrive meanwhile go to their page.

        Raises BrowserError when the browser refuses it, ends, or stays silent for `timeout_s`.
        """
        self._next_id += 1
        number = self._next_id
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters or {}}
        if session is not None:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._to_browser, data) :]
        deadline = time.monotonic() + timeout_s
        while True:
            answer = self.receive(deadline, waiting_for=method)
            if answer.get("id") == number:
                if "error" in answer:
                    raise BrowserError(f"{method}: {answer['error'].get('message')}")
                return dict(answer["result"])

    def receive(self, deadline: float, *, waiting_for: str) -> dict[str, Any]:
        """The next message; an event is handed to its page as well."""
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._from_browser], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise BrowserError(f"no answer to {waiting_for} in time{self._last_words()}")
            chunk = os.read(self._from_browser, 1 << 20)
            if not chunk:
                raise BrowserError(
                    f"the browser ended while it was to answer {waiting_for}{self._last_words()}"
                )
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        page = self._pages.get(message.get("sessionId", ""))
        if page is not None and "method" in message:
            page.notice(message["method"], message.get("params", {}))
        return message

    def _last_words(self) -> str:
        self._log.seek(0)
        said = self._log.read().decode(errors="replace").strip()
        return f"; it said:\n{said[-2000:]}" if said else ""


class Page:
    """One tab: what went wrong in it, what it asked the network for, and ways to look at it."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session
        self._loaded = False
        self.problems: list[str] = []
        """Console errors and warnings, uncaught exceptions, and log entries such as a blocked resource."""
        self.requests: list[str] = []
        """Address of everything that was asked for, the page itself included."""

    def send(self, method: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
        """One command to this tab."""
        return self._browser.send(method, parameters, session=self._session)

    def notice(self, event: str, details: dict[str, Any]) -> None:
        """Take note of an event."""
        if event == "Page.loadEventFired":
            self._loaded = True
        elif event == "Network.requestWillBeSent":
            self.requests.append(details["request"]["url"])
        elif event == "Runtime.exceptionThrown":
            self.problems.append(f"exception: {details['exceptionDetails'].get('text')}")
        elif event == "Runtime.consoleAPICalled" and details["type"] in ("error", "warning", "assert"):
            words = [str(item.get("value", item.get("description"))) for item in details["args"]]
            self.problems.append(f"console.{details['type']}: {' '.join(words)}")
        elif event == "Log.entryAdded" and details["entry"]["level"] in ("error", "warning"):
            self.problems.append(f"{details['entry']['source']}: {details['entry']['text']}")

    def go(self, url: str) -> None:
        """Load an address and wait for its load event. Raises BrowserError when it cannot be loaded."""
        self._loaded = False
        answer = self.send("Page.navigate", {"url": url})
        if answer.get("errorText"):
            raise BrowserError(f"{url}: {answer['errorText']}")
        deadline = time.monotonic() + READY_S
        while not self._loaded:
            self._browser.receive(deadline, waiting_for=f"the load of {url}")

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, as JSON; promises are awaited.

        Works also where the page's own policy forbids scripts. Raises BrowserError for an exception in it.
        """
        answer = self.send(
            "Runtime.evaluate",
            {
                "expression": expression,
                "returnByValue": True,
                "awaitPromise": True,
                "allowUnsafeEvalBlockedByCSP": True,
            },
        )
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            words = details.get("exception", {}).get("description") or details.get("text")
            raise BrowserError(f"JavaScript: {words}")
        return answer["result"].get("value")

    def set_viewport(self, width: int, height: int, *, scale: float = 1.0, mobile: bool = False) -> None:
        """Size of the window in CSS pixels, and device pixels for each."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": mobile},
        )

    def emulate(self, *, dark: bool = False, media: str = "") -> None:
        """Pretend that the reader prefers dark, or that the page is printed (`media` "print")."""
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.send("Emulation.setEmulatedMedia", {"media": media, "features": features})

    def press(self, key: str) -> None:
        """Press and release one key, such as "Tab" or "Enter"."""
        text = "\r" if key == "Enter" else ""
        down = "keyDown" if text else "rawKeyDown"
        code = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32}.get(key, 0)
        common = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.send(
            "Input.dispatchKeyEvent",
            {"type": down, "text": text, **common} if text else {"type": down, **common},
        )
        self.send("Input.dispatchKeyEvent", {"type": "keyUp", **common})

    def screenshot(self, path: Path, *, full_page: bool = True) -> Path:
        """Write a PNG of the page, or of what is in the window."""
        answer = self.send(
            "Page.captureScreenshot",
            {"format": "png", "captureBeyondViewport": full_page} | self._clip(full_page),
        )
        path.write_bytes(base64.b64decode(answer["data"]))
        return path

    def _clip(self, full_page: bool) -> dict[str, Any]:
        if not full_page:
            return {}
        size = self.send("Page.getLayoutMetrics")["cssContentSize"]
        return {"clip": {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}}

    def accessibility_tree(self) -> list[dict[str, Any]]:
        """What a screen reader is given: nodes with role, name and state that are not ignored."""
        self.send("Accessibility.enable")
        nodes = self.send("Accessibility.getFullAXTree")["nodes"]
        return [node for node in nodes if not node.get("ignored")]
