"""A headless Chromium, driven over the pipes of its DevTools protocol, which need no other package."""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import time

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SENT = "Network.requestWillBeSent"
COMPLAINTS = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")

DEEP = """
function deep(selector, root = document) {  // looks into shadow roots as well
  const found = [...root.querySelectorAll(selector)];
  for (const element of root.querySelectorAll("*"))
    if (element.shadowRoot) found.push(...deep(selector, element.shadowRoot));
  return found;
}
"""


def find_browser():
    """The path of a Chromium, or None."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


def find_axe():
    """The path of axe-core, which the package axe-playwright-python brings, or None."""
    package = importlib.util.find_spec("axe_playwright_python")
    return None if package is None else pathlib.Path(package.submodule_search_locations[0]) / "axe.min.js"


class Page:
    """One page of a browser."""

    def __init__(self, send, events):
        self._send, self._events = send, events

    def open(self, url):
        self._send("Page.navigate", url=url)

    def watch(self):
        """Take the network away, and note from now on what is requested and what goes wrong."""
        for domain in ("Network", "Runtime", "Log"):
            self._send(f"{domain}.enable")
        self._send(
            "Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0
        )

    def requested(self):
        """The addresses asked for since `watch`, apart from data inside of the page."""
        sent = [event["params"]["request"]["url"] for event in self._events if event["method"] == SENT]
        return [url for url in sent if not url.startswith("data:")]

    def complaints(self):
        """What was written to the console, or thrown, since `watch`."""
        return [event for event in self._events if event["method"] in COMPLAINTS]

    def prefer(self, scheme):
        """Ask for the colors ``"light"`` or ``"dark"``."""
        self._send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def violations(self, axe):
        """What axe-core, at a path, finds wrong: rules and the elements that break them."""
        self.evaluate(axe.read_text(encoding="utf-8") + "; 0")
        self.evaluate("axe.run().then(result => { window.axeResult = result; }); 0")
        self.wait_for("window.axeResult !== undefined")
        return self.evaluate("axeResult.violations.map(rule => [rule.id, rule.nodes.map(node => node.html)])")

    def resize(self, width, height):
        self._send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def evaluate(self, expression):
        """The value of a JavaScript expression, which may use ``deep(selector)``."""
        answer = self._send("Runtime.evaluate", expression=f"{DEEP}{expression}", returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def wait_for(self, expression, seconds=240):
        """Until an expression is true; its value."""
        end = time.monotonic() + seconds
        while not (value := self.evaluate(expression)):
            if time.monotonic() > end:
                raise TimeoutError(f"not true within {seconds} s: {expression}")
            time.sleep(0.3)
        return value

    def screenshot(self, path, *, whole=False):
        image = self._send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(image))


@contextlib.contextmanager
def open_page(browser, *, width=1400, height=1000):
    """A page in a browser of its own, that ends with the block."""
    to_browser, to_us = os.pipe(), os.pipe()

    def connect():  # the protocol speaks on 3 and 4
        read, write = os.dup2(to_browser[0], 100), os.dup2(to_us[1], 101)
        os.dup2(read, 3)
        os.dup2(write, 4)

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        sizes = [f"--window-size={width},{height}", f"--user-data-dir={profile}", "--remote-debugging-pipe"]
        process = subprocess.Popen(
            [browser, *options, *sizes, "about:blank"],
            preexec_fn=connect,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser[0])
        os.close(to_us[1])
        try:
            with os.fdopen(to_browser[1], "wb") as writing, os.fdopen(to_us[0], "rb") as reading:
                yield _first_page(_Connection(writing, reading))
        finally:
            process.kill()
            process.wait()


class _Connection:
    def __init__(self, writing, reading):
        self._writing, self._reading, self._number, self.events = writing, reading, 0, []

    def send(self, method, session=None, **parameters):
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        self._writing.write(json.dumps({**message, **({"sessionId": session} if session else {})}).encode() + b"\0")
        self._writing.flush()
        while (answer := self._receive()).get("id") != self._number:
            self.events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def _receive(self):
        read = bytearray()
        while (byte := self._reading.read(1)) != b"\0":
            if not byte:
                raise RuntimeError("the browser has ended")
            read += byte
        return json.loads(read)


def _first_page(connection):
    targets = connection.send("Target.getTargets")["targetInfos"]
    page = next(target["targetId"] for target in targets if target["type"] == "page")
    session = connection.send("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
    return Page(lambda method, **parameters: connection.send(method, session, **parameters), connection.events)
