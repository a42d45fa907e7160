"""A narrow AlexNet on the embedded patterns: a first training, on a CPU.

  python -m alexnet_jax.main --config=configs/quickstart.py

A quarter of the paper's width (1.8 M parameters), ten classes of generated
images of 128 pixels. Towers, layers, augmentation and update rule are the
paper's. Seeds 0 to 9 end below 1% validation error on the meshes 1x1, 1x2 and
2x1 (experiments/results/quickstart_seeds.json).
"""

from configs import paper


def get_config():
  config = paper.get_config()
  config.dataset = "patterns/10"
  config.num_classes = 10
  config.image_size = 128
  config.network.crop_size = 112
  config.network.width = 0.25
  # The authors' weights (0.03 in conv3 to conv5, else 0.01), times the root of
  # how many times fewer inputs a unit has: 4, and 16 in fc6. Its input then
  # varies as at full width. Without that, all images look alike to fc7, and
  # the seed decides how long the loss stays at chance level (docs/plateau.md).
  config.network.conv2.std = 0.02
  for name in ("conv3", "conv4", "conv5"):
    config.network[name].std = 0.06
  config.network.fc6.std = 0.04
  config.network.fc7.std = 0.02
  config.network.fc8_std = 0.02
  config.batch_size = 64  # half the paper's, and so is the rate
  config.schedule.learning_rate = 0.005
  config.schedule.bias_learning_rate = 0.005
  config.total_epochs = 4
  config.schedule.boundaries = (2.5, 3.25, 3.75)
  config.log_every_steps = 10
  config.checkpoint_every_steps = 0
  config.report_at_end = True
  return config
