"""The report of a real run, checked in Chromium."""

import json
import re
import subprocess
import sys

import pytest
from browser import Browser
from sample_data import write_tiny

from alexnet_jax.analysis import picture_sections as pictures
from alexnet_jax.analysis import run_facts, sections
from alexnet_jax.data import sources
from alexnet_jax.runtime import config as configs
from alexnet_jax.training import loop, runs

HOSTILE = (
  "<script>alert(1)</script>",
  '"><img src=x onerror=alert(2)>',
  "</script><b>&amp;'`${3}",
)


# A training, its report with all figures, and Chromium: minutes.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory):
  return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def without_evaluation():
  """The report cannot evaluate a run."""

  def evaluates(*_, **__):
    raise AssertionError("it evaluates again")

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(pictures, "evaluate_runs", evaluates)
    yield


@pytest.fixture(scope="module")
def written(place, without_evaluation):
  """The report of a small run whose classes and folder have hostile names."""
  write_tiny(place)
  config = configs.load("configs/quickstart.py")
  config.dataset, config.data_dir, config.num_classes = "tiny", str(place), 3
  config.batch_size, config.total_steps, config.log_every_steps = 8, 6, 1
  config.image_size, config.network.crop_size = 72, 64
  config.network.width = 1 / 32
  workdir = str(place / "<i>run</i>")
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv("XDG_CACHE_HOME", str(place / "cache"))
    real = sources.open_split

    def with_hostile_names(*arguments):
      source = real(*arguments)
      source.class_names = HOSTILE
      return source

    patch.setattr(sources, "open_split", with_hostile_names)
    loop.train_and_evaluate(config, workdir)
    text = sections.report([workdir])
  file = place / "report.html"
  file.write_text(text)
  return file


@pytest.fixture(scope="module")
def browser(place):
  browser = Browser(place / "profile")
  yield browser
  browser.close()


def test_nothing_is_loaded_from_elsewhere(written):
  text = written.read_text()
  addresses = set(re.findall(r'(?:src|href)="([^"]{0,20})', text))
  assert addresses
  assert all(a.startswith(("data:image/", "#section")) for a in addresses)
  assert "url(" not in text.replace("url(#", "")


def test_it_loads_without_errors(browser, written):
  browser.open(f"file://{written}")
  assert browser.problems() == []
  requests = [
    event["params"]["request"]["url"][:8]
    for event in browser.events
    if event["method"] == "Network.requestWillBeSent"
  ]
  assert set(requests) <= {"file:///", "data:ima"}


def test_all_images_are_shown(browser, written):
  browser.open(f"file://{written}")
  sizes = browser.value(
    "[...document.images].map(i => i.complete ? i.naturalWidth : 0)"
  )
  # Two towers, now and at epochs 0, 1 and 1.2; eight predictions; five rows of
  # a query and six neighbours; and the mistakes.
  mistakes = browser.value("document.querySelectorAll('.mistakes img').length")
  assert len(sizes) == 2 + 2 * 3 + 8 + 5 * 7 + mistakes and all(sizes)
  assert 0 < mistakes <= 10


def test_hostile_names_are_shown_as_text(browser, written):
  browser.open(f"file://{written}")
  assert browser.value("document.querySelectorAll('script').length") == (
    browser.value("document.querySelectorAll('.chart').length") + 1
  )
  assert (
    browser.value("document.querySelectorAll('img[src=x], i + b').length") == 0
  )
  for part in (".neighbours", ".mistakes", ".confusion"):
    shown = browser.value(f"document.querySelector('{part}').innerText")
    assert any(name in shown for name in HOSTILE), part
  assert "<i>run</i>" in browser.value("document.title")
  assert browser.value("document.querySelectorAll('td > i').length") == 0


def test_the_curves_show_the_metrics(browser, written, place):
  browser.open(f"file://{written}")
  lines = (place / "<i>run</i>" / "metrics.jsonl").read_text().splitlines()
  losses = [
    line["loss"] for line in map(json.loads, lines) if line["split"] == "train"
  ]
  drawn = browser.value(
    "JSON.parse(document.querySelector('.chart script').textContent)"
    ".series[0].y"
  )
  assert drawn == pytest.approx(losses, rel=1e-6)
  paths = browser.value(
    "[...document.querySelectorAll('.chart')].map("
    "c => [...c.querySelectorAll('path')].map(p => p.getTotalLength()))"
  )
  assert paths and all(length > 0 for chart in paths for length in chart)
  # The diagnostics open on request and are as wide as the other charts.
  details = "document.querySelector('details:has(.chart)')"
  inside = f"{details}.querySelector('svg')"
  assert not browser.value(f"{inside}.checkVisibility()")
  browser.value(f"{details}.open = true")
  assert browser.value(f"{inside}.checkVisibility()")
  assert browser.value(f"{inside}.clientWidth") == browser.value(
    "document.querySelector('.chart svg').clientWidth"
  )


def test_dragging_zooms_and_the_button_resets(browser, written):
  browser.open(f"file://{written}")
  path = "document.querySelector('.chart path').getAttribute('d')"
  before = browser.value(path)
  browser.value("document.querySelector('.chart').scrollIntoView()")
  box = browser.value(
    "(b => [b.x, b.y, b.width, b.height])"
    "(document.querySelector('.chart svg').getBoundingClientRect())"
  )
  y = box[1] + box[3] / 2
  for kind, part in (("Pressed", 0.3), ("Moved", 0.5), ("Released", 0.6)):
    browser(
      "Input.dispatchMouseEvent",
      type=f"mouse{kind}",
      x=box[0] + part * box[2],
      y=y,
      button="left",
      clickCount=1,
    )
  assert browser.value(path) != before
  browser.value("document.querySelector('.chart button').click()")
  assert browser.value(path) == before
  assert browser.problems() == []


def test_the_evaluation_of_the_training_is_used(written, place):
  """The report was written although it could not evaluate."""
  run = runs.load(str(place / "<i>run</i>"))
  found = run_facts.recorded_predictions(run)
  wrong = int((found.label != found.predicted).sum())
  assert wrong / 10 == pytest.approx(run.lines[-1]["top1_error"])
  assert f"of {wrong} wrong predictions" in written.read_text()
  with pytest.raises(AssertionError, match="evaluates again"):
    pictures.mistakes(run._replace(step=5), "")  # has no record


def test_it_fits_a_phone_and_has_a_dark_mode(browser, written):
  browser(
    "Emulation.setDeviceMetricsOverride",
    width=360,
    height=740,
    deviceScaleFactor=2,
    mobile=True,
  )
  browser.open(f"file://{written}")
  assert browser.value("document.documentElement.scrollWidth") <= 360
  # Long names are cut, probabilities are not; below thumbnails names wrap.
  assert browser.value(
    "[...document.querySelectorAll('.bar, .neighbours > div')]"
    ".every(e => e.scrollWidth <= e.clientWidth)"
  )
  widths = "[...document.querySelectorAll('.neighbours img')].map(i => i.width)"
  assert len(set(browser.value(widths))) == 1
  # Rows of tables are a few lines high, even with long notes.
  rows = "[...document.querySelectorAll('td')].map(d => d.offsetHeight)"
  assert max(browser.value(rows)) < 120
  grounds = []
  for scheme in ("light", "dark"):
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser("Emulation.setEmulatedMedia", features=[feature])
    for what in ("backgroundColor", "color"):
      colour = browser.value(f"getComputedStyle(document.body).{what}")
      numbers = [int(n) for n in re.findall(r"\d+", colour)[:3]]
      grounds.append(sum(numbers) / 3)
  light, light_ink, dark, dark_ink = grounds
  assert light - light_ink > 150 and dark_ink - dark > 150
  browser("Emulation.clearDeviceMetricsOverride")


def test_on_paper_nothing_is_cut_off(browser, written):
  browser.screen(700)
  browser("Emulation.setEmulatedMedia", media="print", features=[])
  browser.open(f"file://{written}")
  assert browser.value("document.documentElement.scrollWidth") <= 700
  # What is not printed leaves no heading behind.
  assert browser.value(
    "[...document.querySelectorAll('h2, h3')].every(h => !h.checkVisibility()"
    " || !h.nextElementSibling || h.nextElementSibling.checkVisibility())"
  )
  browser("Emulation.setEmulatedMedia", media="", features=[])
  browser("Emulation.clearDeviceMetricsOverride")


def test_a_directory_without_a_run_is_a_user_error(tmp_path):
  done = subprocess.run(
    [
      *(sys.executable, "-m", "alexnet_jax.report"),
      f"--workdir={tmp_path}",
      f"--output={tmp_path}/x.html",
    ],
    capture_output=True,
    text=True,
  )
  assert done.returncode == 2 and "has no config.json" in done.stderr
  assert "Traceback" not in done.stderr


def test_a_run_in_its_first_epoch_has_a_report(tmp_path):
  config = configs.to_json(configs.load("configs/quickstart.py"))
  (tmp_path / "config.json").write_text(json.dumps(config))
  (tmp_path / "checkpoints").mkdir()  # empty until the first evaluation
  assert runs.load(str(tmp_path)).net is None
