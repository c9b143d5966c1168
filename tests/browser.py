"""Drive headless Chromium over its debugging pipe, to test the HTML page."""

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--no-first-run",
]
KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, "ArrowRight": 39, "ArrowLeft": 37, "Home": 36, "End": 35, " ": 32}


def program():
    """Return the path of a Chromium, or None."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chromium-headless-shell")


class Browser:
    """One browser with one tab; `errors` collects the page's errors, `requests` its network requests."""

    def __init__(self):
        self.profile = tempfile.mkdtemp(prefix="bench-browser-")
        (command_in, self.command_out), (self.answer_in, answer_out) = os.pipe(), os.pipe()
        command = f'exec "$@" 3<&{command_in} 4>&{answer_out}'
        words = [program(), *FLAGS, "--remote-debugging-pipe", f"--user-data-dir={self.profile}", "about:blank"]
        self.process = subprocess.Popen(
            ["bash", "-c", command, "bash", *words], pass_fds=(command_in, answer_out), stderr=subprocess.DEVNULL
        )
        os.close(command_in), os.close(answer_out)
        self.number, self.rest, self.errors, self.requests, self.session = 0, b"", [], [], None
        deadline = time.monotonic() + 30
        while not (pages := [t for t in self("Target.getTargets")["targetInfos"] if t["type"] == "page"]):
            assert time.monotonic() < deadline, "no tab"
        target = pages[0]["targetId"]
        self.session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self(f"{domain}.enable")

    def __call__(self, method, **params):
        """Send one command of the DevTools protocol and return its result."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.command_out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer["error"]
                return answer["result"]

    def _next(self):
        while b"\0" not in self.rest:
            data = os.read(self.answer_in, 2**20)
            assert data, "the browser ended"
            self.rest += data
        line, _, self.rest = self.rest.partition(b"\0")
        event = json.loads(line)
        if event.get("method") == "Runtime.exceptionThrown":
            self.errors.append(event["params"]["exceptionDetails"])
        if event.get("method") == "Log.entryAdded" and event["params"]["entry"]["level"] == "error":
            self.errors.append(event["params"]["entry"]["text"])
        if event.get("method") == "Network.requestWillBeSent":
            self.requests.append(event["params"]["request"]["url"])
        return event

    def open(self, path, *, width=1280, height=900, dark=False, where=""):
        """Load a file on a screen of this size; return the seconds until the page has drawn itself."""
        self.errors, self.requests = [], []
        self("Page.navigate", url="about:blank")
        self.screen(width, height, dark)
        start = time.monotonic()
        self("Page.navigate", url=f"{Path(path).resolve().as_uri()}{where}")
        self.wait("document.documentElement?.dataset.ready === 'yes'")
        return time.monotonic() - start

    def screen(self, width, height=900, dark=False):
        phone = width < 600
        self("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self("Emulation.setEmulatedMedia", media="", features=[scheme])

    def go(self, where):
        """Go to a location.hash of the page and wait for two frames."""
        self.js(f"location.hash = {json.dumps(where)}")
        self.js("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def js(self, expression):
        """Evaluate a JavaScript expression in the page and return its value."""
        answer = self("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, condition, seconds=30):
        deadline = time.monotonic() + seconds
        while not self.js(condition):
            assert time.monotonic() < deadline, f"never came true: {condition}"
            time.sleep(0.02)

    def press(self, key, times=1, **modifiers):
        text = {"text": "\r"} if key == "Enter" else {"text": key} if len(key) == 1 else {}
        for _ in range(times):
            for kind in ("keyDown", "keyUp"):
                produced = text if kind == "keyDown" else {}
                self(
                    "Input.dispatchKeyEvent",
                    type=kind,
                    key=key,
                    windowsVirtualKeyCode=KEYS[key],
                    **produced,
                    **modifiers,
                )

    def click(self, selector):
        self.js(f"document.querySelector({json.dumps(selector)}).click()")

    def point(self, x, y):
        self("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def picture(self, path, whole=True):
        """Save a PNG of the page."""
        shot = self("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        Path(path).write_bytes(base64.b64decode(shot["data"]))

    def close(self):
        os.close(self.command_out)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.answer_in)
        shutil.rmtree(self.profile, ignore_errors=True)
