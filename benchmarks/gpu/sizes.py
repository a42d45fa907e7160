"""The sizes of a session: the paper's on a GPU, tiny ones for a trial."""

import dataclasses

from alexnet_jax.model.network import Network
from alexnet_jax.training.job import Recipe

DRAWN = "noise_256"  # the dataset that `noise` draws

# How products are computed: keys of `Network`.
PRECISIONS = {
  "bfloat16": {"compute_dtype": "bfloat16"},
  "tf32": {"precision": "tf32"},
  "float32": {"precision": "float32"},
}


@dataclasses.dataclass(frozen=True)
class Sizes:
  """How large the network, the batches and the yardsticks are."""

  tiny: bool = False
  width: float = 1.0  # of the paper's
  crop: int = 224  # side of the network's inputs
  image: int = 256  # side of the stored images
  classes: int = 1000
  batches: tuple[int, ...] = (128, 1024, 4096)
  compared: int = 64  # images in a batch that is compared with the CPU's
  layers: int = 256  # images in a batch of single layers
  matrix: int = 8192  # side of the matrices whose product is the yardstick
  copied: int = 2**30  # bytes
  images: int = 4096  # in the drawn dataset
  steps: int = 60  # of a training by the command

  @classmethod
  def of_a_trial(cls) -> "Sizes":
    """Sizes with which a CPU runs every stage in a minute or two."""
    return cls(
      tiny=True,
      width=1 / 16,
      crop=64,
      image=72,
      classes=10,
      batches=(8, 8),  # one size, so that stages share compiled programs
      compared=8,
      layers=2,
      matrix=256,
      copied=2**20,
      images=64,
      steps=6,
    )

  @property
  def middle(self) -> int:
    return self.batches[1]

  @property
  def programs(self) -> list[tuple[str, int]]:
    """Each of PRECISIONS with each batch size, the middle one first."""
    rest = [batch for batch in self.batches if batch != self.middle]
    return [(name, b) for b in (self.middle, *rest) for name in PRECISIONS]

  def recipe(self, precision: str, batch_size: int) -> Recipe:
    """The training with one of PRECISIONS."""
    network = Network(
      num_classes=self.classes,
      width=self.width,
      crop_size=self.crop,
      **PRECISIONS[precision],
    )
    return Recipe(network, batch_size, self.image)

  def flags(self) -> list[str]:
    """The same network for `alexnet_jax.main`."""
    return [
      f"--config.network.width={self.width}",
      f"--config.network.crop_size={self.crop}",
      f"--config.image_size={self.image}",
      f"--config.num_classes={self.classes}",
      "--config.mesh.data=1",
      "--config.mesh.model=1",
    ]
