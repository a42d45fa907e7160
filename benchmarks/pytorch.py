"""The same network as a PyTorch user would write it, and its training step.

The two towers are grouped convolutions. PyTorch's normalisation divides alpha
by n, so alpha is 5e-4 here; it spans both towers, which costs the same.
"""

import torch
from torch import nn


def alexnet(num_classes: int = 1000) -> nn.Module:
  """A network from images f32[B,3,224,224] to scores f32[B,num_classes]."""

  def norm():
    return nn.LocalResponseNorm(5, alpha=5e-4, beta=0.75, k=2.0)

  return nn.Sequential(
    nn.ZeroPad2d((0, 3, 0, 3)),
    nn.Conv2d(3, 96, 11, stride=4),
    nn.ReLU(inplace=True),
    norm(),
    nn.MaxPool2d(3, 2),
    nn.Conv2d(96, 256, 5, padding=2, groups=2),
    nn.ReLU(inplace=True),
    norm(),
    nn.MaxPool2d(3, 2),
    nn.Conv2d(256, 384, 3, padding=1),
    nn.ReLU(inplace=True),
    nn.Conv2d(384, 384, 3, padding=1, groups=2),
    nn.ReLU(inplace=True),
    nn.Conv2d(384, 256, 3, padding=1, groups=2),
    nn.ReLU(inplace=True),
    nn.MaxPool2d(3, 2),
    nn.Flatten(),
    nn.Linear(9216, 4096),
    nn.ReLU(inplace=True),
    nn.Dropout(),
    nn.Linear(4096, 4096),
    nn.ReLU(inplace=True),
    nn.Dropout(),
    nn.Linear(4096, num_classes),
  )


def make(work: str, batch_size: int, compiled: bool, dtype: str, device: str):
  """A function without arguments that does one training step or inference.

  Args:
    work: "train" or "inference".
    batch_size: images.
    compiled: use `torch.compile`; on a GPU with mode="max-autotune".
    dtype: "float32" or "bfloat16" (autocast over float32 parameters).
    device: "cpu" or "cuda".
  """
  torch.manual_seed(0)
  net = alexnet().to(device, memory_format=torch.channels_last)
  images = torch.randn(batch_size, 3, 224, 224, device=device) * 70
  images = images.to(memory_format=torch.channels_last)
  labels = torch.randint(0, 1000, (batch_size,), device=device)
  for parameter in net.parameters():
    if parameter.ndim > 1:
      nn.init.normal_(parameter, std=0.01)
  forward = net
  if compiled:
    mode = "max-autotune" if device == "cuda" else "default"
    forward = torch.compile(net, mode=mode)
  optimizer = torch.optim.SGD(
    net.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4
  )

  def autocast():
    return torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16")

  def finish():
    if device == "cuda":
      torch.cuda.synchronize()

  def train():
    net.train()
    with autocast():
      loss = nn.functional.cross_entropy(forward(images), labels)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    loss.item()
    finish()

  def inference():
    net.eval()
    with torch.inference_mode(), autocast():
      forward(images)
    finish()

  return {"train": train, "inference": inference}[work]
