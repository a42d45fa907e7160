"""cuda-convnet's net for CIFAR-10: 26% error in 80 seconds of 2011.

145,578 parameters. Layers have AlexNet's names: fc6 is the source's fc64.
Without weight decay it is probably close to the network of Figure 1.
"""

from configs import paper
from configs.paper import layer


def get_config():
  config = paper.get_config()
  network = config.network
  network.update(towers=1, exchanges=(), crop_size=32, fc8_std=0.1)
  kernel = {"size": 5, "padding": (2, 2)}
  network.conv1 = layer(32, **kernel, std=1e-4, then=("pool", "relu"))
  network.conv2 = layer(32, **kernel, then=("relu", "avg_pool"))
  network.conv3 = layer(64, **kernel, then=("relu", "avg_pool"))
  for name in ("conv4", "conv5", "fc7"):
    network[name] = layer(0)
  network.fc6 = layer(64, std=0.1)
  config.dataset, config.num_classes, config.image_size = "cifar10", 10, 32
  config.splits.validation = config.splits.test = "test"
  config.augmentation.update(crop=False, flip=False, lighting=0.0)
  config.optimizer.weight_decay = 0.004
  config.optimizer.layer_weight_decay = (("fc6", 0.03), ("fc8", 0.03))
  config.schedule.update(learning_rate=0.001, bias_learning_rate=0.002)
  config.total_epochs, config.schedule.boundaries = 10, (8.0,)
  return config
