"""cuda-convnet's net for CIFAR-10: 18% error; 89,578 parameters.

Norms within a map, 3 x 3, follow the first two poolings.
"""

from configs import cifar_80sec
from configs.paper import layer


def get_config():
  config = cifar_80sec.get_config()
  network = config.network
  network.conv1.then = ("pool", "relu", "within_map_norm")
  network.conv2.then = ("relu", "avg_pool", "within_map_norm")
  network.update(within_map_n=3, within_map_alpha=5e-5 / 9)
  network.fc6, network.fc8_std = layer(0), 0.01
  config.optimizer.layer_weight_decay = (("fc8", 1.0),)
  config.total_epochs, config.schedule.boundaries = 140, (120.0, 130.0)
  return config
