"""The explorer's page, used in Chromium as a visitor uses it.

What it computes is tested in tests/analysis/explorer_test.py.
"""

import io
import os
import re
import socket
import subprocess
import sys
import urllib.request

import numpy as np
import pytest
import tiny_runs
from browser import Browser
from PIL import Image
from sample_data import ROOT, picture, png_header, write_dataset

import alexnet_jax
from alexnet_jax.runtime import config as configs
from alexnet_jax.training.loop import train_and_evaluate

pytest.importorskip(
  "gradio", reason="no Gradio: pip install -r requirements-explore.txt"
)
# A training, and a server that compiles: minutes.
pytestmark = pytest.mark.slow

HOSTILE = (
  "<script>alert(1)</script>",
  '"><img src=x onerror=alert(2)>',
  "${alert(3)}{{3}}</script><b>&amp;",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
  """A run whose folder and classes have hostile names."""
  with tiny_runs.place(tmp_path_factory.mktemp("explore")) as folder:
    pairs = [(encoded(picture(i)), i % 3) for i in range(40)]
    splits = {"train": pairs[:32], "validation": pairs[32:]}
    write_dataset(folder, "hostile", splits, list(HOSTILE))
    config = configs.load(str(ROOT / "configs" / "quickstart.py"))
    config.update_from_flattened_dict(
      tiny_runs.CHANGES
      | {"data_dir": str(folder), "dataset": "hostile", "total_steps": 4}
    )
    assert train_and_evaluate(config, str(folder / "<i>run</i>"))
    yield folder


def encoded(pixels, kind="PNG", **options):
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, kind, **options)
  return file.getvalue()


@pytest.fixture(scope="module")
def run(place):
  return str(place / "<i>run</i>")


def start(place, arguments, cwd=ROOT, **variables):
  """Starts a server; returns its process and address."""
  process = subprocess.Popen(
    [sys.executable, *arguments],
    cwd=cwd,
    env=os.environ | {"XDG_CACHE_HOME": str(place / "cache")} | variables,
    stdout=subprocess.PIPE,
    text=True,
  )
  for line in process.stdout:
    if found := re.search(r"http://\S+", line):
      return process, found[0]
  raise AssertionError(f"the server ended with status {process.wait()}")


def stop(process):
  process.terminate()
  process.wait(60)
  process.stdout.close()


@pytest.fixture(scope="module")
def address(place, run):
  process, address = start(
    place, ["-m", "alexnet_jax.explore", f"--workdir={run}"]
  )
  yield address
  stop(process)


@pytest.fixture(scope="module")
def browser(place, address):
  browser = Browser(place / "profile")
  yield browser
  browser.close()


@pytest.fixture
def page(browser, address):
  browser.screen(1400)
  browser.open(address)
  browser.wait("document.querySelector('.verdict')")
  return browser


def click(page, text, tag="button"):
  page.value(
    f"[...document.querySelectorAll('{tag}')]"
    f".find(e => e.innerText.trim().startsWith('{text}')).click()"
  )


def bars(page, k):
  """The percentages of the k-th answer, in the order of the rows."""
  return page.value(
    f"[...document.querySelectorAll('.class .bar.c{k} span')]"
    ".map(e => e.innerText)"
  )


def percentages(probabilities, order):
  return [f"{probabilities[i]:.1%}" for i in order]


def test_the_page_loads_nothing_from_elsewhere_and_has_no_errors(page, address):
  assert page.problems() == []
  requests = [
    event["params"]["request"]["url"]
    for event in page.events
    if event["method"] == "Network.requestWillBeSent"
  ]
  assert len(requests) > 10
  assert {
    url for url in requests if not url.startswith(("data:", "blob:"))
  } == {url for url in requests if url.startswith(address)}
  assert address.startswith("http://127.0.0.1:")


def test_switches_cut_exchanges_and_towers(page, run):
  """The bars are the probabilities of the library's whole and cut networks."""
  net = alexnet_jax.load(run)
  first = picture(32)
  (whole,) = net.predict(first)
  order = np.argsort(-whole)
  assert bars(page, 0) == percentages(whole, order)
  click(page, "conv3", "label")
  page.wait("document.querySelectorAll('.class .bar.c1').length == 3")
  (cut,) = net.cut(["conv3"]).predict(first)
  assert bars(page, 1) == percentages(cut, order)
  click(page, "conv3", "label")
  page.wait("document.querySelectorAll('.class .bar.c1').length == 0")
  click(page, "tower 1", "label")
  page.wait("document.querySelectorAll('.class .bar.c1').length == 3")
  (cut,) = net.cut(towers=[1]).predict(first)
  assert bars(page, 1) == percentages(cut, order)
  click(page, "none", "label")
  page.wait("document.querySelectorAll('.class .bar.c1').length == 0")
  click(page, "fc8", "label")
  page.wait("document.querySelectorAll('.class .bar.c2').length == 3")
  assert page.problems() == []


def test_every_tab_has_its_pictures(page):
  for name, count in (("Maps", 14), ("Exchanges", 6), ("Kernels", 2)):
    click(page, name, "[role=tab]")
    shown = "[...document.querySelectorAll('.explorer img')]"
    shown += ".filter(i => i.checkVisibility() && i.naturalWidth)"
    page.wait(f"{shown}.length == {count}")
  click(page, "Nearest", "[role=tab]")
  click(page, "Find")
  page.wait("document.querySelectorAll('.nearest img').length == 6")
  assert "32 training images" in page.value("document.body.innerText")
  assert page.problems() == []


def test_a_picture_of_the_dataset_can_be_chosen(page, run):
  page.value("document.querySelectorAll('.thumbnail-item')[3].click()")
  (whole,) = alexnet_jax.load(run).predict(picture(35))
  wanted = percentages(whole, np.argsort(-whole))
  shown = "[...document.querySelectorAll('.class .bar.c0 span')]"
  page.wait(f"{shown}.map(e => e.innerText).join() == '{','.join(wanted)}'")


def test_hostile_names_are_shown_as_text(page):
  assert (
    page.value("document.querySelectorAll('img[src=x], p > i').length") == 0
  )
  text = page.value("document.body.innerText")
  assert "<i>run</i>" in text
  for name in HOSTILE:
    assert name in text
  assert page.problems() == []


def test_hostile_pictures_get_a_sentence_and_the_page_lives(page, tmp_path):
  pixels = picture(0)
  cmyk = io.BytesIO()
  Image.fromarray(pixels).convert("CMYK").save(cmyk, "JPEG")
  frames = [Image.fromarray(picture(i)) for i in range(3)]
  animated = io.BytesIO()
  frames[0].save(animated, "GIF", save_all=True, append_images=frames[1:])
  bad = {
    "bomb.png": png_header(60_000, 60_000),
    "cut.jpg": encoded(pixels, "JPEG")[:600],
    "text.png": b"<script>alert(1)</script>",
    "drawing.svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "<img src=x onerror=alert(4)>.png": b"not a picture",
  }
  good = {
    "cmyk.jpg": cmyk.getvalue(),
    "animated.gif": animated.getvalue(),
    "one.png": encoded(pixels[:1, :1]),
    "<b>name.png": encoded(pixels),
    "wide.png": encoded(np.zeros((3, 20_000, 3), np.uint8)),
  }
  for name, content in (bad | good).items():
    file = tmp_path / name
    file.write_bytes(content)
    page.value(
      "document.querySelector('[aria-label=\"Remove Image\"]').click()"
    )
    page.wait("document.body.innerText.includes('Drop a picture, take one')")
    root = page("DOM.getDocument")["root"]["nodeId"]
    node = page(
      "DOM.querySelector",
      nodeId=root,
      selector=".explorer-picture input[type=file]",
    )
    page("DOM.setFileInputFiles", nodeId=node["nodeId"], files=[str(file)])
    if name in bad:
      page.wait("document.body.innerText.includes('cannot be read: ')")
    else:
      page.wait("document.querySelector('.verdict')")
  # Gradio's own code warns "Method not implemented." when an upload ends.
  wrong = [e["params"] for e in page.problems()]
  assert [w for w in wrong if w.get("type") != "warning"] == []


@pytest.mark.parametrize("width", [390, 1400])
def test_it_fits_the_screen_in_light_and_dark(browser, address, width):
  grounds = []
  for dark in (False, True):
    browser.screen(width, dark=dark)
    browser.open(address)
    browser.wait("document.querySelector('.verdict')")
    assert browser.value("document.documentElement.scrollWidth") <= width
    assert browser.value(
      "[...document.querySelectorAll('.explorer, .explorer p')]"
      ".every(e => e.scrollWidth <= e.clientWidth + 1)"
    )
    for element, what in (("body", "backgroundColor"), (".verdict", "color")):
      colour = browser.value(
        f"getComputedStyle(document.querySelector('{element}')).{what}"
      )
      numbers = [int(n) for n in re.findall(r"\d+", colour)[:3]]
      grounds.append(sum(numbers) / 3)
    assert browser.problems() == []
  light, light_ink, dark, dark_ink = grounds
  assert light - light_ink > 150 and dark_ink - dark > 150


def test_a_port_in_use_is_a_user_error(place, run):
  with socket.create_server(("127.0.0.1", 0)) as taken:
    port = taken.getsockname()[1]
    done = tiny_runs.command(
      place, "explore", f"--workdir={run}", f"--port={port}"
    )
  assert done.returncode == 2 and f"port {port}" in done.stderr
  assert "Traceback" not in done.stderr


def test_the_documented_space_starts_as_a_space_starts_it(place, run, tmp_path):
  """With the files of docs/explorer.md: `python app.py`, variables set."""
  done = tiny_runs.command(
    place,
    *("weights", "export", f"--workdir={run}"),
    f"--output={tmp_path / 'alexnet.safetensors'}",
  )
  assert done.returncode == 0, done.stderr
  text = (ROOT / "docs" / "explorer.md").read_text()
  app, header = (
    re.search(rf"```{kind}\n(.*?)```", text, re.DOTALL)[1]
    for kind in ("python\n# app.py", "yaml")
  )
  assert "app_file: app.py" in header and "sdk: gradio" in header
  (tmp_path / "app.py").write_text(app)
  with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]
  process, address = start(
    place, ["app.py"], cwd=tmp_path, PYTHONPATH=str(ROOT),
    GRADIO_SERVER_NAME="0.0.0.0", GRADIO_SERVER_PORT=str(port),
  )  # fmt: skip
  try:
    assert address == f"http://localhost:{port}/"
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as answer:
      assert answer.status == 200 and "gradio" in answer.read().decode()
  finally:
    stop(process)
