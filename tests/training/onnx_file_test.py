"""onnxruntime gives our scores for an exported network from the same pixels."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax.data.pixel_statistics import Statistics
from alexnet_jax.model import network as networks
from alexnet_jax.model.alexnet import abstract_net
from alexnet_jax.runtime import config as configs
from alexnet_jax.runtime.command import UserError
from alexnet_jax.training import classifier
from alexnet_jax.training.run_data import RunData

onnx, onnxruntime = (
  pytest.importorskip(
    name, reason="ONNX is absent (pip install -r requirements-onnx.txt)"
  )
  for name in ("onnx", "onnxruntime")
)
from alexnet_jax.training import onnx_file  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Maps of 15, 7 and 3 after conv1 and its poolings, 14 in Caffe's, where a
# pooling window overhangs.
SMALL = {"image_size": 72, "network.crop_size": 64, "num_classes": 5}
CONFIGS = (
  "quickstart",
  "paper",
  "original2012",
  "caffe_alexnet",
  "torchvision",
)
# What these five do not have.
SWITCHES = {
  "four towers, of which no layer but fc7 reads more than one": {
    "network.towers": 4,
    "network.exchanges": ("fc7", "fc8"),
  },
  "groups inside each tower": {
    "network.conv1.features": 64,
    "network.conv2.groups": 2,
    "network.conv3.groups": 2,
  },
  "an even number of neighbours": {"network.lrn_n": 4},
  "all other steps": {
    "network.conv1.then": ("batch_norm", "sigmoid", "avg_pool"),
    "network.conv2.then": ("relu", "relu", "lrn", "pool", "within_map_norm"),
    "network.conv5.then": ("tanh", "global_avg_pool", "dropout_mean"),
    "network.within_map_n": 4,
    "network.within_map_alpha": 0.5,
    "network.dropout_rate": 0.3,
  },
  "grey, without convolutions": {
    **{f"network.conv{i}.features": 0 for i in range(1, 6)},
    "network.channels": 1,
    "network.exchanges": ("fc6", "fc8"),
    "network.crop_size": 10,
  },
}


def make(name, **changes):
  """A configuration, random parameters and the data of a narrow network."""
  values = configs.load(str(ROOT / "configs" / f"{name}.py"))
  values.update_from_flattened_dict(SMALL | changes)
  values.network.width /= 4 if name == "quickstart" else 16
  config = configs.to_json(values)
  network = networks.from_dict(config["network"], config["num_classes"])
  random = np.random.default_rng(0)

  def draw(like):
    fan_in = np.prod(like.shape[1:-1])  # of a vector 1
    x = np.sqrt(2 / fan_in) * random.normal(size=like.shape)
    return jnp.asarray((x if like.ndim > 2 else np.abs(x)).astype(np.float32))

  net = jax.tree.map(draw, abstract_net(network))
  mean = random.uniform(90, 130, (72, 72, 3)).astype(np.float32)
  statistics = Statistics(mean, np.ones(3), np.eye(3), 9)
  names = ("ash", "elm", "oak", "fir", "yew")
  return config, net, RunData("trees", "trees/1:train", names, statistics)


def compare(config, net, data, order):
  """The scores and probabilities of random pictures agree to 1e-4."""
  content = onnx_file.to_bytes(
    net, config=config, order=order, data=data, step=3
  )
  model = onnx.load_from_string(content)
  onnx.checker.check_model(model, full_check=True)
  pictures = np.random.default_rng(1).integers(0, 256, (4, 72, 72, 3), np.uint8)
  pictures //= np.array([1, 2, 4], np.uint8)  # colours of different strength
  session = onnxruntime.InferenceSession(content)
  fed = pictures if order == "rgb" else pictures[..., ::-1].copy()
  scores, probabilities = session.run(None, {"images": fed})
  mesh = classifier.one_device(config["network"]["towers"])
  ours = classifier.Classifier(
    net,
    data.image_statistics(config, mesh),
    image_size=72,
    classes=data.classes,
  )
  expected = ours.activations(pictures, "fc8")
  scale = np.abs(expected).max()
  assert expected.std(axis=0).min() > 3e-4 * scale  # pictures differ
  np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-5 * scale)
  exponents = np.exp(expected - expected.max(1, keepdims=True))
  np.testing.assert_allclose(
    probabilities, exponents / exponents.sum(1, keepdims=True), atol=1e-4
  )
  return model, session


@pytest.mark.parametrize(
  "name",
  [CONFIGS[0], *(pytest.param(n, marks=pytest.mark.slow) for n in CONFIGS[1:])],
)
def test_the_scores_of_five_configurations(name):
  model, session = compare(*make(name), "rgb")
  assert session.get_inputs()[0].shape == ["batch", 72, 72, 3]
  facts = session.get_modelmeta().custom_metadata_map
  assert facts["channels"] == "rgb"
  assert json.loads(facts["classes"]) == ["ash", "elm", "oak", "fir", "yew"]
  names = {constant.name for constant in model.graph.initializer}
  assert {"conv1.weight", "fc8.bias", "mean_image"} <= names


@pytest.mark.slow
@pytest.mark.parametrize("changes", SWITCHES.values(), ids=SWITCHES)
def test_the_scores_with_other_switches(changes):
  compare(*make("quickstart", **changes), "bgr")


def test_what_cannot_be_exported_is_a_sentence(monkeypatch):
  config, net, data = make("quickstart")

  def export():
    return onnx_file.to_bytes(
      net, config=config, order="rgb", data=data, step=3
    )

  monkeypatch.setattr(onnx_file, "MAX_BYTES", 1000)
  with pytest.raises(UserError, match="GiB, and an ONNX file holds at most"):
    export()
  monkeypatch.undo()
  network = net.towers.network
  steps = {"then": ("swish",)}
  layer = networks.Layer(**(vars(network.fc6) | steps))
  graph = onnx_file._Graph(network, {})
  shape = next(s for s in onnx_file.shapes(network) if s.name == "fc6")
  with pytest.raises(UserError, match="the step 'swish' of fc6 cannot be"):
    graph._steps("x", shape._replace(layer=layer))
