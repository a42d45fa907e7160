"""A narrow AlexNet on the embedded patterns: minutes on two CPU cores.

  python -m alexnet_jax.main --config=configs/quickstart.py

A quarter of the paper's width (3.6 M parameters), ten classes of generated
images; input, augmentation and update rule are the paper's.
"""

from configs import paper


def get_config():
  config = paper.get_config()
  config.dataset = "patterns/10"
  config.num_classes = 10
  config.network.width = 0.25
  config.batch_size = 64
  config.total_epochs = 4
  config.schedule.boundaries = (3.5, 3.8, 3.9)
  for name in ("conv3", "conv4", "conv5"):  # as in the authors' source
    config.network[name].std = 0.03
  config.checkpoint_every_steps = 0
  return config
