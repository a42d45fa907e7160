"""A cosine with warm-up instead of the paper's three drops of the rate."""

from configs import paper


def get_config():
  config = paper.get_config()
  config.schedule.update(name="cosine", warmup_epochs=5.0)
  return config
