"""No dropout (section 4.2)."""

from configs import paper


def get_config():
  config = paper.get_config()
  for name in ("fc6", "fc7"):
    config.network[name].then = ("relu",)
  return config
