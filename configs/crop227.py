"""The input of many ports: 227 pixels, so that conv1 needs no padding."""

from configs import paper


def get_config():
  config = paper.get_config()
  config.network.crop_size = 227
  config.network.conv1.padding = (0, 0)
  return config
