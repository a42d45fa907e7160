"""The comparison with PyTorch: the same network, the same update rule."""

import dataclasses
import json
import resource
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax.model import alexnet as model
from alexnet_jax.model import sharding
from alexnet_jax.model.grouped import to_grouped
from alexnet_jax.model.network import Network
from alexnet_jax.model.shapes import shapes
from benchmarks import compare

# The two towers as in PyTorch: one, whose normalisation spans all maps.
FIGURE2 = Network()
GROUPED = dataclasses.replace(
  FIGURE2,
  towers=1,
  width=2.0,
  exchanges=(),
  dropout_inverted=True,
  **{
    name: dataclasses.replace(getattr(FIGURE2, name), groups=2)
    for name in ("conv2", "conv4", "conv5")
  },
)


@pytest.fixture
def pytorch():
  pytest.importorskip(
    "torch", reason="torch is absent (pip install torch==2.13.0)"
  )
  from benchmarks import pytorch

  return pytorch


@pytest.fixture(scope="module")
def net():
  """Weights that keep the size of the activations, so that scores differ."""
  abstract = jax.eval_shape(lambda: model.AlexNet(GROUPED, jax.random.key(0)))
  rng = np.random.default_rng(0)

  def draw(leaf):
    std = np.sqrt(2 / np.prod(leaf.shape[1:-1])) if leaf.ndim > 2 else 0.1
    return jnp.asarray(std * rng.standard_normal(leaf.shape), jnp.float32)

  return jax.tree.map(draw, abstract)


def test_the_pytorch_network_gives_our_scores(pytorch, net):
  import torch

  images = np.random.default_rng(1).normal(0, 70, (3, 224, 224, 3))
  mesh = sharding.make_mesh(1, 1, towers=1)
  specs = model.param_specs(net)
  forward = sharding.on_each_device(
    model.forward, mesh, (specs, sharding.BATCH), sharding.BATCH
  )
  ours = jax.jit(forward)(
    *sharding.place(
      (net, jnp.asarray(images, jnp.float32)), (specs, sharding.BATCH), mesh
    )
  )
  theirs = pytorch.alexnet().eval()
  layers = [layer for layer in theirs if hasattr(layer, "weight")]
  names = [shape.name for shape in shapes(GROUPED)]
  arrays = to_grouped(net, GROUPED)
  with torch.inference_mode():
    for name, layer in zip(names, layers, strict=True):
      layer.weight.copy_(torch.tensor(arrays[f"{name}.weight"]))
      layer.bias.copy_(torch.tensor(arrays[f"{name}.bias"]))
    scores = theirs(
      torch.tensor(images, dtype=torch.float32).permute(0, 3, 1, 2)
    ).numpy()
  spread = np.abs(scores - scores.mean(axis=0)).max()
  assert spread > 0.05 * np.abs(scores).max()
  assert np.abs(np.asarray(ours) - scores).max() < 1e-4 * np.abs(scores).max()


def test_both_have_the_parameters_of_figure_2(pytorch):
  ours = jax.eval_shape(lambda: model.AlexNet(FIGURE2, jax.random.key(0)))
  theirs = sum(p.numel() for p in pytorch.alexnet().parameters())
  assert theirs == sum(leaf.size for leaf in jax.tree.leaves(ours)) == 60965224


def test_the_pytorch_step_follows_the_paper(pytorch, monkeypatch):
  """Two steps in float64 from PyTorch's gradients."""
  net = pytorch.alexnet()
  monkeypatch.setattr(pytorch, "alexnet", lambda: net)
  train = pytorch.make("train", 2, False, "float32", "cpu")
  followed = [p for p in net.parameters() if p.numel() < 1_000_000]
  expected = [p.detach().numpy().astype(np.float64) for p in followed]
  velocity = [np.zeros_like(w) for w in expected]
  gradients = {}
  for i, parameter in enumerate(followed):
    parameter.register_hook(
      lambda g, i=i: gradients.update({i: g.numpy().astype(np.float64)})
    )
  for _ in range(2):
    train()
    for i in range(len(followed)):
      decayed = gradients[i] + 5e-4 * expected[i]
      velocity[i] = 0.9 * velocity[i] + decayed
      expected[i] = expected[i] - 1e-3 * velocity[i]
  assert len(followed) == 13  # all but the four largest kernels
  for parameter, wanted, moved in zip(
    followed, expected, velocity, strict=True
  ):
    error = np.abs(parameter.detach().numpy() - wanted).max()
    rounding = 2**-23 * np.abs(wanted).max()  # twice half a unit
    change = 1e-3 * np.abs(moved).max()
    assert change > 10 * rounding
    assert error < rounding + 1e-5 * change


def _row(name, milliseconds, **more):
  seconds = milliseconds / 1e3
  row = {"name": name, "work": "train", "batch_size": 64, "dtype": "float32"}
  answers = [(seconds, 2 * seconds, 2**30), (3 * seconds, seconds, 2**31)]
  return row | compare.summary(answers, 64) | more


def test_ratios_compare_the_same_work_and_dtype():
  rows = [
    _row("pytorch_eager", 300),
    _row("jax_one_device", 150),
    _row("jax_two_devices", 100),
    _row("pytorch_eager", 100, dtype="bfloat16"),
    _row("jax_one_device", 50, dtype="bfloat16"),
  ]
  found = {(r["dtype"], r["over"]): r["ratio"] for r in compare.ratios(rows)}
  assert found == {
    ("float32", "pytorch_eager"): pytest.approx(3),
    ("float32", "jax_one_device"): pytest.approx(1.5),
    ("bfloat16", "pytorch_eager"): pytest.approx(2),
  }
  line = compare.table(rows).splitlines()[2]
  assert line == (
    "| train, float32 | 64 | pytorch_eager | 106.7 | 300, 600, 900"
    " | 3.00 | 3.00 | 2,048 MB |"
  )


def test_the_plot_has_a_panel_for_each_kind_of_work(tmp_path, monkeypatch):
  from matplotlib import pyplot

  figures = []
  monkeypatch.setattr(pyplot, "close", figures.append)
  rows = [
    _row(name, 100 * size**0.9, batch_size=size, work=work)
    for name in ("pytorch_eager", "jax_two_devices")
    for size in (1, 16, 64)
    for work in ("train", "inference")
  ]
  compare.plot(rows, tmp_path / "compare.png")
  assert (tmp_path / "compare.png").stat().st_size > 10_000
  (figure,) = figures
  assert [axis.get_title() for axis in figure.axes] == ["train", "inference"]
  for axis in figure.axes:
    names = [text.get_text() for text in axis.texts]
    assert sorted(names) == ["jax_two_devices", "pytorch_eager"]
    assert axis.get_xscale() == axis.get_yscale() == "log"


@pytest.mark.parametrize("name", ["pytorch_eager", "jax_one_device"])
def test_the_record_has_the_precision_settings(name, request):
  if name.startswith("pytorch"):
    request.getfixturevalue("pytorch")
  settings = compare.precision(name)
  assert settings and json.loads(json.dumps(settings)) == settings


@pytest.mark.skipif(sys.platform != "linux", reason="no /proc")
def test_peak_memory_equals_the_system_s_count():
  counted = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  found = compare.peak_memory("jax_one_device", "cpu")
  assert found == pytest.approx(counted, rel=0.05)
