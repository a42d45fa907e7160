"""Kernel responses: which part of a picture each kernel of conv1 answers to."""

from typing import NamedTuple

import numpy as np

from alexnet_jax.training.classifier import Classifier


class KernelResponses(NamedTuple):
  """The first layer's n kernels of each tower, and where they respond most."""

  kernels: np.ndarray  # f32[towers,n,h,w,channels]
  patches: (
    np.ndarray
  )  # uint8[towers,n,h,w,3], the pixels under the kernel there
  strengths: np.ndarray  # f32[towers,n], the largest response, without the bias


def kernel_responses(
  net: Classifier, square: np.ndarray
) -> KernelResponses | None:
  """Finds the largest response of each kernel of the first layer.

  Args:
    net: the network.
    square: a picture as `Classifier.square` returns it, uint8[S,S,3].

  Returns:
    None if the first layer's kernels differ from position to position (`local`)
    or read all pixels at once.
  """
  network, name = net.model.towers.network, net.layers[0]
  layer = getattr(network, name)
  if layer.local or not layer.size:
    return None
  kernels = np.asarray(getattr(net.model.towers, name).kernel[...])
  kernels = np.moveaxis(kernels, -1, 1)
  read = _windows(net.inputs(square), layer)
  towers, count, *window = kernels.shape
  weights = kernels.reshape(towers * count, -1).T
  responses = read.reshape(len(read), -1) @ weights
  best = responses.argmax(axis=0)
  pixels = _windows(net.crop(square), layer)[best]
  return KernelResponses(
    kernels,
    pixels.reshape(towers, count, *window[:2], 3),
    responses[best, np.arange(len(best))].reshape(towers, count),
  )


def _windows(image: np.ndarray, layer) -> np.ndarray:
  """What a kernel reads at each position: [H,W,C] -> [positions,h,w,C]."""
  padded = np.pad(image, (layer.padding, layer.padding, (0, 0)))
  sides = (layer.size, layer.size)
  windows = np.lib.stride_tricks.sliding_window_view(padded, sides, (0, 1))
  windows = windows[:: layer.stride, :: layer.stride]  # [H',W',C,h,w]
  return np.moveaxis(windows, 2, -1).reshape(-1, *sides, image.shape[-1])
