"""A narrow network on CIFAR-10, enlarged to 128 and cropped to 112 pixels.

  python -m alexnet_jax.main --config=configs/cifar10.py --config.data_dir=DIR

5,000 training images are held out to choose schedules. Only `python -m
alexnet_jax.evaluate --split=test` reads the test images.
"""

from configs import paper


def get_config():
  config = paper.get_config()
  config.dataset = "cifar10"
  config.num_classes = 10
  config.splits.validation = "test"
  config.splits.test = "test"
  config.holdout = 5000
  config.image_size = 128
  config.network.crop_size = 112
  config.network.width = 0.25
  config.total_epochs = 30
  config.schedule.boundaries = (20.0, 25.0, 28.0)
  for name in ("conv3", "conv4", "conv5"):
    config.network[name].std = 0.03
  config.checkpoint_every_steps = 0
  return config
