"""torchvision's AlexNet: the one-tower net of Krizhevsky's 2014 paper.

61,100,840 parameters, no LRN, dropout before fc6 and fc7. The initial weights
have PyTorch's standard deviations, but are normal, and biases are 0. Its
published weights can be evaluated with this configuration (docs/weights.md).
Not reproduced from its training: crops of random size, the learning rate
outside the velocity.
"""

import math

from configs import one_tower


def get_config():
  config = one_tower.get_config()
  network = config.network
  network.width = 1.0
  inputs = (363, 1600, 1728, 3456, 2304, 9216, 4096)
  outputs = (64, 192, 384, 256, 256, 4096, 4096)
  names = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7")
  for name, fan_in, features in zip(names, inputs, outputs, strict=True):
    std = 1 / math.sqrt(3 * fan_in)
    network[name].update(features=features, std=std, bias=0.0)
  network.fc8_std = 1 / math.sqrt(3 * 4096)
  network.conv1.padding, network.pool_overhang = (2, 2), False
  network.conv1.then = network.conv2.then = ("relu", "pool")
  network.conv5.then = ("relu", "pool", "dropout")
  network.fc7.then, network.dropout_inverted = ("relu",), True
  config.pixels.rescale, config.pixels.divisor = "torchvision", 255.0
  config.pixels.mean = (0.485, 0.456, 0.406)
  config.pixels.deviation = (0.229, 0.224, 0.225)
  config.augmentation.lighting = 0.0
  config.batch_size = 256
  config.optimizer.weight_decay, config.optimizer.decay_biases = 1e-4, True
  config.schedule.boundaries = (30.0, 60.0)
  return config
