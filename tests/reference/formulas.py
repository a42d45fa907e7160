"""The formulas of 2012 in float64 NumPy, as plain sums.

Nothing here shares code with the package. Every layer is a function that
returns its output and a function from the output's gradient to the gradients
of its arguments, in their order. Maps are [B,H,W,C].
"""

import numpy as np


def conv(x, kernel, bias, stride=1, padding=(0, 0), groups=1):
  """Section 3: kernel [K,K,C/groups,F]; padding (top/left, bottom/right).

  With two groups the first half of the kernels reads the first half of the
  maps: one tower then computes the same as two.
  """
  size, _, depth, features = kernel.shape
  batch, height, width, _ = x.shape
  before = padding[0]
  padded = np.zeros(
    (batch, height + sum(padding), width + sum(padding), x.shape[3])
  )
  padded[:, before : before + height, before : before + width] = x
  rows = (padded.shape[1] - size) // stride + 1
  columns = (padded.shape[2] - size) // stride + 1
  per_group = features // groups

  def places(row, column, group):
    """What the kernel's element (row, column) reads, at all positions."""
    return (
      slice(None),
      slice(row, row + stride * (rows - 1) + 1, stride),
      slice(column, column + stride * (columns - 1) + 1, stride),
      slice(group * depth, (group + 1) * depth),
    )

  y = np.zeros((batch, rows, columns, features)) + bias
  elements = [
    (i, j, g) for i in range(size) for j in range(size) for g in range(groups)
  ]
  for i, j, g in elements:
    out = slice(g * per_group, (g + 1) * per_group)
    y[..., out] += padded[places(i, j, g)] @ kernel[i, j, :, out]

  def backward(dy):
    d_padded, d_kernel = np.zeros_like(padded), np.zeros_like(kernel)
    for i, j, g in elements:
      out = slice(g * per_group, (g + 1) * per_group)
      d_padded[places(i, j, g)] += dy[..., out] @ kernel[i, j, :, out].T
      d_kernel[i, j, :, out] = np.einsum(
        "bhwc,bhwf->cf", padded[places(i, j, g)], dy[..., out]
      )
    dx = d_padded[:, before : before + height, before : before + width]
    return dx, d_kernel, dy.sum((0, 1, 2))

  return y, backward


def linear(x, kernel, bias):
  """Section 3.5: units read all inputs, in the order height, width, map."""
  flat = x.reshape(len(x), -1)

  def backward(dy):
    return (dy @ kernel.T).reshape(x.shape), flat.T @ dy, dy.sum(0)

  return flat @ kernel + bias, backward


def relu(x):
  """Section 3.1: max(0, x). The gradient at 0 is 0, as in the 2012 source."""
  return np.maximum(x, 0), lambda dy: dy * (x > 0)


def tanh(x):
  y = np.tanh(x)
  return y, lambda dy: dy * (1 - y * y)


def sigmoid(x):
  y = 1 / (1 + np.exp(-x))
  return y, lambda dy: dy * y * (1 - y)


def lrn(a, k, n, alpha, beta):
  """Section 3.3, the printed formula: the sum runs over maps i-n/2 to i+n/2.

  `alpha` multiplies the sum; the source divides it by n first.
  """
  count = a.shape[3]

  def neighbours(i):
    return range(max(0, i - n // 2), min(count - 1, i + n // 2) + 1)

  s = np.empty_like(a)
  for i in range(count):
    s[..., i] = k + alpha * sum(a[..., j] ** 2 for j in neighbours(i))

  def backward(db):
    # b_i = a_i s_i^-beta, so db_i/da_m = [i=m] s_i^-beta
    #   - 2 alpha beta a_i a_m s_i^(-beta-1) for m among i's neighbours.
    da = db * s**-beta
    for i in range(count):
      for m in neighbours(i):
        slope = 2 * alpha * beta * a[..., i] * a[..., m]
        da[..., m] -= db[..., i] * slope * s[..., i] ** (-beta - 1)
    return da

  return a * s**-beta, backward


def within_map_norm(a, k, n, alpha, beta):
  """`rnorm` of the 2012 source: as LRN, over n x n places of the same map.

  `alpha` multiplies the sum; the source divides it by n^2 first.
  """
  height, width = a.shape[1:3]
  s = np.full_like(a, k)
  windows = {}
  for y in range(height):
    for x in range(width):
      window = (
        slice(None),
        slice(max(0, y - n // 2), y + n // 2 + 1),
        slice(max(0, x - n // 2), x + n // 2 + 1),
      )
      windows[y, x] = window
      s[:, y, x] += alpha * (a[window] ** 2).sum((1, 2))

  def backward(db):
    da = db * s**-beta
    common = db * a * s ** (-beta - 1)
    for (y, x), window in windows.items():
      da[window] -= (
        2 * alpha * beta * a[window] * common[:, y : y + 1, x : x + 1]
      )
    return da

  return a * s**-beta, backward


def _windows(length, size, stride, overhang):
  """The positions of windows; with overhang the last may be incomplete."""
  if overhang:
    count = int(np.ceil((length - size) / stride)) + 1
  else:
    count = (length - size) // stride + 1
  return [
    slice(i * stride, min(i * stride + size, length)) for i in range(count)
  ]


def max_pool(x, size=3, stride=2, overhang=True):
  """Section 3.4. Of equal units the first, row by row, gets the gradient."""
  rows = _windows(x.shape[1], size, stride, overhang)
  columns = _windows(x.shape[2], size, stride, overhang)
  batch, maps = len(x), x.shape[3]
  y = np.empty((batch, len(rows), len(columns), maps))
  winners = np.empty(y.shape, int)
  for i, row in enumerate(rows):
    for j, column in enumerate(columns):
      flat = x[:, row, column].reshape(batch, -1, maps)
      winners[:, i, j] = flat.argmax(1)
      y[:, i, j] = flat.max(1)

  def backward(dy):
    dx = np.zeros_like(x)
    b, c = np.meshgrid(np.arange(batch), np.arange(maps), indexing="ij")
    for i, row in enumerate(rows):
      for j, column in enumerate(columns):
        width = column.stop - column.start
        r, k = np.divmod(winners[:, i, j], width)
        np.add.at(dx, (b, row.start + r, column.start + k, c), dy[:, i, j])
    return dx

  return y, backward


def avg_pool(x, size=3, stride=2, overhang=True):
  """The mean over a window's positions inside the map (cuda-convnet)."""
  rows = _windows(x.shape[1], size, stride, overhang)
  columns = _windows(x.shape[2], size, stride, overhang)
  y = np.empty((len(x), len(rows), len(columns), x.shape[3]))
  for i, row in enumerate(rows):
    for j, column in enumerate(columns):
      y[:, i, j] = x[:, row, column].mean((1, 2))

  def backward(dy):
    dx = np.zeros_like(x)
    for i, row in enumerate(rows):
      for j, column in enumerate(columns):
        area = (row.stop - row.start) * (column.stop - column.start)
        dx[:, row, column] += dy[:, i, j][:, None, None] / area
    return dx

  return y, backward


def dropout(x, keep, inverted=False):
  """Section 4.2. keep: 0 or 1 for each unit; None in evaluation.

  Unless inverted, units are unscaled in training and halved in evaluation.
  """
  factor = 0.5 if keep is None else keep
  if inverted:
    factor = factor * 2
  return x * factor, lambda dy: dy * factor


def cross_entropy(scores, labels):
  """Section 3.5: the mean of -log softmax(scores)[label]."""
  exp = np.exp(scores - scores.max(1, keepdims=True))
  p = exp / exp.sum(1, keepdims=True)
  examples = np.arange(len(labels))
  loss = -np.log(p[examples, labels]).mean()

  def backward():
    d = p.copy()
    d[examples, labels] -= 1
    return d / len(labels)

  return loss, backward


def update(weight, velocity, gradient, rate, decay=0.0005, momentum=0.9):
  """Section 5, the printed rule, rate inside the velocity; -> weight, velocity.

  The 2012 source does not decay biases: decay=0.
  """
  velocity = momentum * velocity - decay * rate * weight - rate * gradient
  return weight + velocity, velocity
