"""Logistic units, as before ReLU."""

from configs import paper


def get_config():
  config = paper.get_config()
  for name in ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7"):
    then = config.network[name].then
    config.network[name].then = ("sigmoid", *then[1:])
  return config
