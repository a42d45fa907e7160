"""Caffe's CaffeNet: as its AlexNet, but pooling comes before LRN; biases 1."""

from configs import caffe_alexnet


def get_config():
  config = caffe_alexnet.get_config()
  for name in ("conv1", "conv2"):
    config.network[name].then = ("relu", "pool", "lrn")
  for name in ("conv2", "conv4", "conv5", "fc6", "fc7"):
    config.network[name].bias = 1.0
  return config
