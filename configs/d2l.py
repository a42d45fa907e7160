"""The AlexNet of "Dive into Deep Learning", for Fashion-MNIST at 224 pixels.

46,764,746 parameters: one channel, ten classes, no LRN, and conv1 padded by 1,
so that maps are 54, 26, 12, 5. Initial weights and pixel scale are the paper's.
"""

from configs import one_tower


def get_config():
  config = one_tower.get_config()
  network = config.network
  network.channels, network.pool_overhang = 1, False
  network.conv1.update(padding=(1, 1), then=("relu", "pool"))
  network.conv2.then = ("relu", "pool")
  network.dropout_inverted = True
  config.dataset, config.num_classes, config.image_size = (
    "fashion_mnist",
    10,
    224,
  )
  config.splits.validation = config.splits.test = "test"
  config.augmentation.update(crop=False, flip=False, lighting=0.0)
  return config
