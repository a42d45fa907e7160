"""The two-tower network of 2012 in float64 NumPy, connected as in Figure 2.

`parameters[name]` is a list over towers of [kernel, bias]; fc8 has one bias,
`parameters["fc8_bias"] = [[bias]]`. Gradients come in the same form.
"""

import functools

import numpy as np
from reference import formulas as f

LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7")


def paper_stem(x, conv1, conv2):
  """Layers 1 and 2 of the paper: LRN after ReLU, alpha times the sum."""
  norm = functools.partial(f.lrn, k=2, n=5, alpha=1e-4, beta=0.75)
  x = chain(x, conv1, f.relu, norm, f.max_pool)
  return then(x, conv2, f.relu, norm, f.max_pool)


def original_stem(x, conv1, conv2):
  """Layers 1 and 2 of net #145, from the released layer file."""
  norm = functools.partial(f.lrn, k=2, n=5, alpha=1e-4 / 5, beta=0.75)
  same_map = functools.partial(
    f.within_map_norm, k=1, n=5, alpha=1e-3 / 25, beta=0.75
  )
  x = chain(x, conv1, norm, f.max_pool, f.relu)
  return then(x, conv2, f.relu, norm, same_map, f.max_pool)


def chain(x, *layers):
  """Runs layers one after another; returns output and backward function."""
  return then((x, lambda dx: dx), *layers)


def then(output_and_backward, *layers):
  x, before = output_and_backward
  backs = [before]
  for layer in layers:
    x, back = layer(x)
    backs.append(back)

  def backward(dy):
    for back in reversed(backs):
      dy = back(dy)
    return dy

  return x, backward


def exchange(parts):
  """Gives each tower the maps of all; takes and returns [(x, backward)]."""
  widths = np.cumsum([x.shape[-1] for x, _ in parts])[:-1]
  whole = np.concatenate([x for x, _ in parts], -1)
  waiting = []

  def backward(dy):
    # Both towers read a tower's output, so their gradients are added.
    waiting.append(dy)
    if len(waiting) < len(parts):
      return
    pieces = np.split(sum(waiting), widths, -1)
    for (_, back), piece in zip(parts, pieces, strict=True):
      back(piece)

  return [(whole, backward)] * len(parts)


def run(parameters, images, masks=None, stem=paper_stem, inverted=False):
  """The class scores.

  Args:
    masks: masks["fc6"][tower] f64[B,units], 0 or 1; None in evaluation.

  Returns:
    (scores, backward); backward(gradient of scores) -> gradients.
  """
  towers = range(len(parameters["conv1"]))
  gradients = {name: [None for _ in towers] for name in (*LAYERS, "fc8")}

  def conv(name, tower, **options):
    def layer(x):
      y, back = f.conv(x, *parameters[name][tower], **options)
      return y, record(name, tower, back)

    return layer

  def fc(name, tower):
    def layer(x):
      y, back = f.linear(x, *parameters[name][tower])
      return y, record(name, tower, back)

    return layer

  def record(name, tower, back):
    def backward(dy):
      dx, *gradients[name][tower] = back(dy)
      return dx

    return backward

  def drop(name, tower):
    keep = None if masks is None else masks[name][tower]
    return functools.partial(f.dropout, keep=keep, inverted=inverted)

  parts = [
    stem(
      images,
      conv("conv1", t, stride=4, padding=(0, 3)),
      conv("conv2", t, padding=(2, 2)),
    )
    for t in towers
  ]
  parts = exchange(parts)
  parts = [
    then(
      parts[t],
      conv("conv3", t, padding=(1, 1)),
      f.relu,
      conv("conv4", t, padding=(1, 1)),
      f.relu,
      conv("conv5", t, padding=(1, 1)),
      f.relu,
      f.max_pool,
    )
    for t in towers
  ]
  parts = exchange(parts)
  parts = [then(parts[t], fc("fc6", t), f.relu, drop("fc6", t)) for t in towers]
  parts = exchange(parts)
  parts = [then(parts[t], fc("fc7", t), f.relu, drop("fc7", t)) for t in towers]
  scores = parameters["fc8_bias"][0][0]
  for t in towers:
    scores = scores + parts[t][0] @ parameters["fc8"][t][0]

  def backward(d_scores):
    gradients["fc8_bias"] = [[d_scores.sum(0)]]
    for t in towers:
      x, back = parts[t]
      gradients["fc8"][t] = [x.T @ d_scores]
      back(d_scores @ parameters["fc8"][t][0].T)
    return gradients

  return scores, backward


def loss_and_gradients(parameters, images, labels, masks, **recipe):
  scores, backward = run(parameters, images, masks, **recipe)
  loss, loss_backward = f.cross_entropy(scores, labels)
  return loss, backward(loss_backward())


def update(parameters, velocity, gradients, rate, bias_rate=None, frozen=()):
  """One update of everything: -> parameters, velocity. `frozen` layers stay."""
  new_parameters, new_velocity = {}, {}
  for name, towers in parameters.items():
    new_parameters[name], new_velocity[name] = [], []
    for tower, leaves in enumerate(towers):
      moved = []
      for i, leaf in enumerate(leaves):
        is_bias = i == 1 or name == "fc8_bias"
        moved.append(
          (leaf, velocity[name][tower][i])
          if name in frozen
          else f.update(
            leaf,
            velocity[name][tower][i],
            gradients[name][tower][i],
            rate=(bias_rate or rate) if is_bias else rate,
            decay=0 if is_bias else 0.0005,
          )
        )
      new_parameters[name].append([w for w, _ in moved])
      new_velocity[name].append([v for _, v in moved])
  return new_parameters, new_velocity


def zeros_like(parameters):
  return {
    name: [[np.zeros_like(leaf) for leaf in leaves] for leaves in towers]
    for name, towers in parameters.items()
  }
