"""Headless Chromium for tests of pages."""

import base64
import itertools
import json
import os
import pathlib
import shutil
import subprocess
import time

import pytest


class Browser:
  """Headless Chromium, controlled through two pipes."""

  def __init__(self, folder):
    name = shutil.which("chromium") or shutil.which("google-chrome")
    if name is None:
      pytest.skip("no Chromium here: apt-get install chromium")
    read, self._commands = os.pipe()
    self._answers, write = os.pipe()
    flags = "--headless=new --no-sandbox --disable-gpu --no-first-run"
    flags += " --disable-dev-shm-usage --remote-debugging-pipe"
    self._process = subprocess.Popen(
      f"exec {name} {flags} --user-data-dir='{folder}' about:blank"
      f" 3<&{read} 4>&{write}",
      shell=True,
      pass_fds=(read, write),
      stderr=subprocess.DEVNULL,
      executable="/bin/bash",
    )
    os.close(read)
    os.close(write)
    self._buffer, self._numbers = b"", itertools.count(1)
    self.events = []
    targets = self("Target.getTargets")["targetInfos"]
    page_id = next(t["targetId"] for t in targets if t["type"] == "page")
    self._session = None
    attached = self("Target.attachToTarget", targetId=page_id, flatten=True)
    self._session = attached["sessionId"]
    for domain in ("Page", "Runtime", "Log", "Network"):
      self(f"{domain}.enable")

  _session = None

  def __call__(self, method, **parameters):
    number = next(self._numbers)
    command = {"id": number, "method": method, "params": parameters}
    if self._session:
      command["sessionId"] = self._session
    os.write(self._commands, json.dumps(command).encode() + b"\0")
    while (message := self._receive()).get("id") != number:
      self.events.append(message)
    assert "error" not in message, message
    return message["result"]

  def _receive(self):
    while b"\0" not in self._buffer:
      read = os.read(self._answers, 1 << 20)
      assert read, "the browser has exited"
      self._buffer += read
    message, self._buffer = self._buffer.split(b"\0", 1)
    return json.loads(message)

  def open(self, address):
    self.events.clear()
    self("Page.navigate", url=address)
    while not any(e["method"] == "Page.loadEventFired" for e in self.events):
      self.events.append(self._receive())
    self.value("new Promise(requestAnimationFrame)")

  def value(self, expression):
    """The value of a JavaScript expression."""
    answer = self(
      "Runtime.evaluate",
      expression=expression,
      awaitPromise=True,
      returnByValue=True,
    )
    assert "exceptionDetails" not in answer, answer
    return answer["result"].get("value")

  def wait(self, expression, seconds=300):
    """Waits until a JavaScript expression is true."""
    end = time.monotonic() + seconds
    while not self.value(f"Boolean({expression})"):
      assert time.monotonic() < end, f"still not true: {expression}"
      time.sleep(0.1)

  def screen(self, width, height=900, dark=False):
    """Shows pages on a screen of this size (a phone's, below 500 pixels)."""
    self(
      "Emulation.setDeviceMetricsOverride",
      width=width,
      height=height,
      deviceScaleFactor=2 if width < 500 else 1,
      mobile=width < 500,
    )
    scheme = "dark" if dark else "light"
    feature = {"name": "prefers-color-scheme", "value": scheme}
    self("Emulation.setEmulatedMedia", features=[feature])

  def picture(self, file, **options):
    """Writes the screen, or the whole page, to a PNG file."""
    answer = self("Page.captureScreenshot", format="png", **options)
    pathlib.Path(file).write_bytes(base64.b64decode(answer["data"]))

  def problems(self):
    """Console messages, exceptions and dialogs since the page was opened."""
    wrong = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown")
    wrong += ("Log.entryAdded", "Page.javascriptDialogOpening")
    return [event for event in self.events if event["method"] in wrong]

  def close(self):
    os.close(self._commands)
    self._process.terminate()
    self._process.wait(20)
    os.close(self._answers)
