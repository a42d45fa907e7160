"""The centre of each image, never mirrored nor lit (section 4.1)."""

from configs import paper


def get_config():
  config = paper.get_config()
  config.augmentation.crop = config.augmentation.flip = False
  config.augmentation.lighting = 0.0
  return config
