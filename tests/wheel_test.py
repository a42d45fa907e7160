"""The installed package works from any folder, without the checkout."""

import os
import pathlib
import shutil
import site
import subprocess
import sys
import venv
import zipfile

import numpy as np
import pytest
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[1]
FILES = (
  *("pyproject.toml", "README.md", "LICENSE"),
  *sorted(path.name for path in ROOT.glob("requirements*.txt")),
)
FOLDERS = ("alexnet_jax", "configs")

pytestmark = pytest.mark.slow

# A configuration of the user's own, which builds on a shipped one.
OWN = """
from configs import quickstart

def get_config():
  config = quickstart.get_config()
  config.splits.train, config.splits.validation = "train[:48]", "validation[:8]"
  config.image_size, config.network.crop_size = 72, 64
  config.network.width = 1 / 16
  config.batch_size, config.total_steps = 8, 3
  config.report_at_end = False
  return config
"""

LIBRARY = """
import sys
import alexnet_jax

assert "jax" not in sys.modules
net = alexnet_jax.load("runs/mine")
import numpy as np
from PIL import Image

picture = np.asarray(Image.open("picture.png"))
probabilities = net.predict([picture])
assert probabilities.shape == (1, 10) == (1, len(net.classes))
print(abs(probabilities.sum() - 1) < 1e-5)

import jax
network = alexnet_jax.Network(width=1 / 16, num_classes=5)
model = alexnet_jax.AlexNet(network, jax.random.key(0))
print(model(np.zeros((2, 224, 224, 3), np.float32)).shape)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
  """Built from a copy, because the build writes into its source."""
  source, out = (tmp_path_factory.mktemp(name) for name in ("source", "out"))
  for name in FILES:
    shutil.copy(ROOT / name, source)
  for name in FOLDERS:
    shutil.copytree(
      ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__")
    )
  _pip("wheel", "--no-deps", "--no-build-isolation", f"-w{out}", str(source))
  (found,) = out.glob("*.whl")
  return found


@pytest.fixture(scope="module")
def run(wheel, tmp_path_factory):
  """Runs the Python of a fresh environment in an otherwise empty folder.

  The environment has the wheel, and the libraries of this one.
  """
  environment = tmp_path_factory.mktemp("environment")
  venv.create(environment, with_pip=False)
  python = environment / "bin" / "python"
  (installed,) = environment.glob("lib/python*/site-packages")
  libraries = "\n".join(site.getsitepackages())
  (installed / "libraries.pth").write_text(libraries + "\n")
  _pip("--python", str(python), "install", "--no-deps", "--no-index", wheel)
  folder = tmp_path_factory.mktemp("empty")
  variables = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

  def run(*arguments):
    done = subprocess.run(
      [python, *arguments], cwd=folder, env=variables, text=True,
      capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout

  run.folder, run.installed = folder, installed
  return run


def _pip(*arguments):
  command = [sys.executable, "-m", "pip", "--quiet", *arguments]
  subprocess.run(command, check=True)


def test_the_wheel_has_every_file_of_the_package_and_nothing_else(wheel):
  expected = {
    path.relative_to(ROOT).as_posix()
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*")
    if path.is_file() and path.suffix != ".pyc"
  }
  with zipfile.ZipFile(wheel) as archive:
    names = {n for n in archive.namelist() if ".dist-info/" not in n}
  inside = {n.replace("alexnet_jax/configs/", "configs/") for n in names}
  assert inside == expected
  assert {name.split("/")[0] for name in names} == {"alexnet_jax"}


def test_train_predict_and_load_in_an_empty_folder(run):
  (run.folder / "mine.py").write_text(OWN)
  pixels = np.random.default_rng(0).integers(0, 255, (90, 70, 3), np.uint8)
  Image.fromarray(pixels).save(run.folder / "picture.png")
  assert "alexnet_jax" in run(
    "-c", "import alexnet_jax; print(alexnet_jax.__file__)"
  )
  run("-m", "alexnet_jax.main", "--config=mine.py")
  assert (run.folder / "runs" / "mine" / "metrics.jsonl").exists()
  predicted = run(
    "-m", "alexnet_jax.predict", "--workdir=runs/mine", "picture.png"
  )
  assert "picture.png" in predicted and "%" in predicted
  assert run("-c", LIBRARY).split("\n")[:2] == ["True", "(2, 5)"]


@pytest.mark.parametrize("name", ["paper", "configs/paper.py"])
def test_a_shipped_configuration_has_a_name(run, name):
  described = run("-m", "alexnet_jax.describe", f"--config={name}")
  assert "60,965,224" in described


def test_selftest_in_an_empty_folder(run):
  assert "all checks passed" in run("-m", "alexnet_jax.selftest")
