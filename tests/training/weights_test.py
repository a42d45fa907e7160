"""Exporting and importing the weights of a run."""

import json
import pathlib
import re
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from sample_data import command, jpeg

from alexnet_jax.data.pixel_statistics import Statistics
from alexnet_jax.model import network as networks
from alexnet_jax.model import sharding
from alexnet_jax.model.grouped import to_grouped
from alexnet_jax.runtime import config
from alexnet_jax.runtime.command import UserError
from alexnet_jax.training import (
  classifier,
  runs,
  step,
  weights,
  weights_file,
)
from alexnet_jax.training.checkpoint import Checkpoints
from alexnet_jax.training.optimizer import momentum_sgd
from alexnet_jax.training.run_data import RunData

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
  """A workdir with a checkpoint of step 3 and a velocity that is not zero."""
  workdir = tmp_path_factory.mktemp("run")
  values = config.load(str(ROOT / "configs/paper.py"))
  values.network.width, values.num_classes = 1 / 32, 5
  network = networks.from_dict(values.network.to_dict(), 5)
  shapes = step.abstract_state(
    network, momentum_sgd(), sharding.make_mesh(1, 1)
  )
  random = np.random.default_rng(0)
  state = jax.tree.map(
    lambda x: jnp.asarray(random.normal(size=x.shape).astype(x.dtype)), shapes
  )._replace(step=jnp.int32(3))
  (workdir / "config.json").write_text(json.dumps(config.to_json(values)))
  mean = random.uniform(0, 255, (256, 256, 3)).astype(np.float32)
  statistics = Statistics(mean, np.ones(3), np.eye(3), 9)
  names = ("ash", "elm", "oak", "fir", "yew")
  RunData("trees", "trees/1.0.0:train", names, statistics).save(str(workdir))
  checkpoints = Checkpoints(str(workdir / "checkpoints"))
  checkpoints.save(3, step.to_dict(state), {"of": "the run"})
  checkpoints.wait()
  checkpoints.close()
  return workdir


@pytest.fixture
def run(original, tmp_path):
  return str(shutil.copytree(original, tmp_path / "run"))


def test_a_run_exports_and_imports(run, tmp_path):
  file = str(tmp_path / "file.safetensors")
  assert weights.export_weights(run, file) == 3
  changed = {name: array + 1 for name, array in load_file(file).items()}
  save_file(changed, file)
  del changed["mean_image"]
  assert weights.import_weights(run, file) == 4
  # The new checkpoint: one step later, a velocity of zero, the same metadata.
  checkpoints = Checkpoints(f"{run}/checkpoints", read_only=True)
  state, metadata = runs.load_state(run, sharding.make_mesh(1, 1), checkpoints)
  checkpoints.close()
  assert int(state.step) == 4
  assert metadata == {"of": "the run"}
  assert not any(map(np.any, jax.tree.leaves(state.optimizer_state)))
  arrays = to_grouped(state.net, state.net.towers.network)
  assert arrays.keys() == changed.keys()
  for name, array in arrays.items():
    np.testing.assert_array_equal(array, changed[name])


def test_an_exported_file_carries_its_network(run, tmp_path):
  file = str(tmp_path / "file.safetensors")
  weights.export_weights(run, file)
  with safe_open(file, "np") as opened:
    facts, mean = opened.metadata(), opened.get_tensor("mean_image")
  assert json.loads(facts["classes"]) == ["ash", "elm", "oak", "fir", "yew"]
  assert json.loads(facts["words"]) == ["ash", "elm", "oak", "fir", "yew"]
  assert json.loads(facts["scale"]) == [1.0, 1.0, 1.0]
  assert (facts["channels"], facts["step"]) == ("rgb", "3")
  # No path of the machine that trained the network.
  saved = json.loads(facts["config"])
  assert (saved["data_dir"], saved["start_from"]) == ("", "")
  assert saved["network"] == runs.load_config(run)["network"]
  stored = np.load(pathlib.Path(run, "statistics.npz"))["mean_image"]
  np.testing.assert_array_equal(mean, stored.transpose(2, 0, 1))
  # So it needs nothing else, and is the run.
  picture = np.random.default_rng(1).integers(0, 256, (90, 70, 3), np.uint8)
  net, same = classifier.load(file), classifier.load(run)
  assert net.classes == same.classes
  np.testing.assert_array_equal(net.predict(picture), same.predict(picture))


def test_the_lines_of_the_readme_give_our_scores(run, tmp_path, monkeypatch):
  """From a JPEG of any size, in PyTorch."""
  pytest.importorskip(
    "torch", reason="torch is absent (pip install torch==2.13.0)"
  )
  block = r"```python\n(import %s.*?)```"
  module = re.findall(
    block % "torch", (ROOT / "docs/weights.md").read_text(), re.S
  )
  lines = re.findall(block % "json", (ROOT / "README.md").read_text(), re.S)
  (tmp_path / "alexnet.py").write_text(module[0])
  weights.export_weights(run, str(tmp_path / "alexnet.safetensors"))
  net = classifier.load(tmp_path / "alexnet.safetensors")
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend(tmp_path)
  for seed, (height, width) in enumerate([(300, 401), (140, 90)]):
    encoded = jpeg(seed, height=height, width=width)
    (tmp_path / "cat.jpg").write_bytes(encoded)
    names = {}
    exec(lines[0], names)
    ours = net.activations(tmp_path / "cat.jpg", "fc8")
    theirs = names["scores"].numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max())
  del sys.modules["alexnet"]


def test_the_lines_for_onnxruntime_give_our_scores(run, tmp_path, monkeypatch):
  pytest.importorskip("onnxruntime", reason="ONNX is absent")
  page = (ROOT / "docs/weights.md").read_text()
  lines = re.search(r"```python\n(import json, numpy.*?)```", page, re.S)[1]
  weights.export_weights(run, str(tmp_path / "alexnet.onnx"), format="onnx")
  (tmp_path / "cat.jpg").write_bytes(jpeg(4, height=300, width=401))
  monkeypatch.chdir(tmp_path)
  names = {}
  exec(lines, names)
  assert names["words"] == ["ash", "elm", "oak", "fir", "yew"]
  net = classifier.load(run)
  ours = net.activations(np.asarray(names["picture"]), "fc8")
  scale = np.abs(ours).max()
  np.testing.assert_allclose(ours, names["scores"], rtol=0, atol=1e-4 * scale)
  with pytest.raises(UserError, match="is an ONNX file, which this program"):
    classifier.load("alexnet.onnx")


def test_without_onnx_the_command_says_what_to_install(
  run, tmp_path, monkeypatch
):
  monkeypatch.setitem(sys.modules, "onnx", None)
  monkeypatch.delitem(
    sys.modules, "alexnet_jax.training.onnx_file", raising=False
  )
  monkeypatch.delattr("alexnet_jax.training.onnx_file", raising=False)
  output = tmp_path / "alexnet.onnx"
  with pytest.raises(UserError, match="install -r requirements-onnx"):
    weights.export_weights(run, str(output), format="onnx")
  assert not output.exists()


def test_the_command_exports_for_caffe(run, tmp_path):
  file = str(tmp_path / "bgr.safetensors")
  arguments = ["export", f"--workdir={run}", f"--output={file}"]
  result = command("weights", *arguments, "--channels=bgr")
  assert "the weights after step 3" in result.stdout, result.stderr
  rgb = str(tmp_path / "rgb.safetensors")
  weights.export_weights(run, rgb)
  np.testing.assert_array_equal(
    load_file(file)["conv1.weight"], load_file(rgb)["conv1.weight"][:, ::-1]
  )
  np.testing.assert_array_equal(
    load_file(file)["mean_image"], load_file(rgb)["mean_image"][::-1]
  )
  # Back in the run, both files are the same network.
  for name in (file, rgb):
    weights.import_weights(run, name)
    again = str(tmp_path / "again.safetensors")
    weights.export_weights(run, again)
    np.testing.assert_array_equal(
      load_file(again)["conv1.weight"], load_file(rgb)["conv1.weight"]
    )


def test_the_command_writes_no_file_that_would_be_read_as_pytorchs(tmp_path):
  file = tmp_path / "x.pth"
  result = command("weights", "export", "--workdir=run", f"--output={file}")
  assert result.returncode == 2 and "safetensors" in result.stderr
  assert not file.exists()


def test_a_file_of_another_network_changes_nothing(run, tmp_path):
  file = str(tmp_path / "other.safetensors")
  save_file({"conv9.weight": np.zeros(3, np.float32)}, file)
  before = sorted(pathlib.Path(run, "checkpoints").rglob("*"))
  with pytest.raises(UserError, match=r"conv9\.weight is unknown"):
    weights.import_weights(run, file)
  assert sorted(pathlib.Path(run, "checkpoints").rglob("*")) == before


def test_a_file_of_weights_has_no_checkpoints(run, tmp_path):
  file = str(tmp_path / "x.safetensors")
  weights.export_weights(run, file)
  assert classifier.load(file).classes == ("ash", "elm", "oak", "fir", "yew")
  with pytest.raises(UserError, match="checkpoint=best chooses a checkpoint"):
    classifier.load(file, checkpoint="best")


@pytest.mark.parametrize(
  "changes, words",
  [
    ({"mean_image": np.full((3, 256, 256), np.nan, np.float32)}, "not finite"),
    ({"config": {"num_classes": -1}}, "metadata of .* are damaged"),
    ({"config": {"network": {}}}, "metadata of .* are damaged"),
  ],
)
def test_a_file_that_contradicts_itself_is_refused(
  run, tmp_path, changes, words
):
  file = str(tmp_path / "x.safetensors")
  weights.export_weights(run, file)
  arrays = load_file(file)
  with safe_open(file, "np") as opened:
    metadata = opened.metadata()
  if "config" in changes:
    whole = json.loads(metadata["config"]) | changes["config"]
    metadata["config"] = json.dumps(whole)
  else:
    arrays |= changes
  save_file(arrays, file, metadata)
  with pytest.raises(UserError, match=words):
    weights_file.read(file)


def test_the_output_is_not_called_as_another_format(run, tmp_path):
  """`read` goes by the ending: it would not read what was written."""
  for name in ("x.pth", "x.bin", "x.caffemodel"):
    with pytest.raises(UserError, match=r"call it .*/x\.safetensors"):
      weights.export_weights(run, str(tmp_path / name))
    with pytest.raises(UserError, match=r"call it .*/x\.safetensors"):
      weights_file.convert("any", None, str(tmp_path / name))
  for format, other in (("onnx", "safetensors"), ("safetensors", "onnx")):
    with pytest.raises(UserError, match=f"{format}, or set --format={other}"):
      weights.export_weights(run, str(tmp_path / f"x.{other}"), format=format)
  # An import has no --format.
  with pytest.raises(UserError, match=r"call it .*/x\.safetensors\.$"):
    weights_file.convert("any", None, str(tmp_path / "x.onnx"))
  assert not list(tmp_path.glob("x.*"))


@pytest.mark.parametrize(
  "arguments, words",
  [
    (["export", "--workdir=x", "--mean_image=x"], "--mean_image would have no"),
    (
      ["import", "--workdir=x", "--input=x", "--checkpoint=1"],
      "--checkpoint would have no effect on import into a run",
    ),
    (["import", "--output=x", "--input=x", "--checkpoint=1"], "no effect on"),
    (["import", "--output=x", "--input=x", "--format=onnx"], "no effect on"),
  ],
)
def test_flags_without_effect_are_an_error(arguments, words):
  result = command("weights", *arguments)
  assert result.returncode == 2 and words in result.stderr


def test_a_missing_or_foreign_file_is_rejected(run, tmp_path):
  with pytest.raises(UserError, match="no such file"):
    weights.import_weights(run, str(tmp_path / "none.safetensors"))
  (tmp_path / "text").write_text("no weights")
  with pytest.raises(UserError, match="not a safetensors file"):
    weights.import_weights(run, str(tmp_path / "text"))
