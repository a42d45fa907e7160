"""No response normalisation (section 3.3)."""

from configs import paper


def get_config():
  config = paper.get_config()
  for name in ("conv1", "conv2"):
    config.network[name].then = ("relu", "pool")
  return config
