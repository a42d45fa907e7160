"""A cosine with warm-up instead of the paper's three drops of the rate.

The rate depends on the length of the run: if a finished run is extended with a
larger total_epochs, its rate rises again, and the program says so.
"""

from configs import paper


def get_config():
  config = paper.get_config()
  config.schedule.update(name="cosine", warmup_epochs=5.0)
  return config
