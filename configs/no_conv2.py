"""conv2 removed (section 7); its pooling stays, so maps keep their sizes."""

from configs import paper
from configs.paper import layer


def get_config():
  config = paper.get_config()
  config.network.conv2 = layer(0)
  config.network.conv1.then = ("relu", "lrn", "pool", "pool")
  return config
