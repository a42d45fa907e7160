"""No lighting (section 4.1: worth over one point of top-1 error)."""

from configs import paper


def get_config():
  config = paper.get_config()
  config.augmentation.lighting = 0.0
  return config
