"""The port of many blogs, here with the 21 classes of tfds `uc_merced`.

58,367,381 parameters: one tower, 227 pixels, LRN divided by n, dropout inverted
and before fc6 and fc7. (Many of these ports train with Adam.)
"""

from configs import one_tower


def get_config():
  config = one_tower.get_config()
  network = config.network
  network.crop_size, network.conv1.padding = 227, (0, 0)
  network.lrn_alpha = 1e-4 / 5
  network.conv5.then = ("relu", "pool", "dropout")
  network.fc7.then, network.dropout_inverted = ("relu",), True
  config.augmentation.lighting = 0.0
  config.dataset, config.num_classes = "uc_merced", 21
  config.splits.train = "train[:80%]"
  config.splits.validation = config.splits.test = "train[80%:]"
  return config
