"""LeNet-5 as textbooks have it, for MNIST: 61,706 parameters.

LeCun and others, 1998, without that paper's trainable pooling and partial
connections. Layers keep AlexNet's names: fc6 has 120 units, fc7 84.
"""

from configs import paper
from configs.paper import layer


def get_config():
  config = paper.get_config()
  network = config.network
  network.update(towers=1, exchanges=(), channels=1, crop_size=28)
  network.update(pool_size=2, pool_stride=2, fc8_std=0.1)
  then = ("tanh", "avg_pool")
  network.conv1 = layer(6, size=5, padding=(2, 2), std=0.003, then=then)
  network.conv2 = layer(16, size=5, std=0.08, then=then)
  for name in ("conv3", "conv4", "conv5"):
    network[name] = layer(0)
  network.fc6 = layer(120, std=0.05, then=("tanh",))
  network.fc7 = layer(84, std=0.1, then=("tanh",))
  config.dataset, config.num_classes, config.image_size = "mnist", 10, 28
  config.splits.validation = config.splits.test = "test"
  config.augmentation.update(crop=False, flip=False, lighting=0.0)
  config.total_epochs, config.schedule.boundaries = 20, (15.0,)
  return config
