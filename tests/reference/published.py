"""What torchvision and Caffe do with a picture, and their networks in PyTorch.

Written from their documentation and sources, apart from the package:
torchvision's `ImageClassification` transforms (in its version 0.28 these lines
give the same pixels), Caffe's `convert_imageset`, `data_transformer.cpp` and
the prototxt of bvlc_alexnet and bvlc_reference_caffenet.
"""

import io

import cv2
import numpy as np
from PIL import Image


def torchvision_pixels(encoded):
  """Resize(256), CenterCrop(224): uint8[224,224,3] RGB."""
  with Image.open(io.BytesIO(encoded)) as opened:
    image = opened.convert("RGB")
  short = min(image.size)
  width, height = (int(256 * side / short) for side in image.size)
  image = image.resize((width, height), Image.Resampling.BILINEAR)
  top, left = round((height - 224) / 2.0), round((width - 224) / 2.0)
  return np.asarray(image.crop((left, top, left + 224, top + 224)))


def torchvision_inputs(encoded):
  """ToTensor, Normalize: f32[3,224,224]."""
  scaled = torchvision_pixels(encoded).astype(np.float32) / 255
  mean = np.array([0.485, 0.456, 0.406], np.float32)
  deviation = np.array([0.229, 0.224, 0.225], np.float32)
  return ((scaled - mean) / deviation).transpose(2, 0, 1)


def caffe_inputs(encoded, mean):
  """convert_imageset at 256 x 256, less the mean, centre crop: f32[3,227,227].

  Blue comes first, in the result and in the `mean` image f32[3,256,256].
  """
  image = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
  image = cv2.resize(image, (256, 256))
  centred = image.transpose(2, 0, 1).astype(np.float32) - mean
  offset = (256 - 227) // 2
  return centred[:, offset : offset + 227, offset : offset + 227]


def torchvision_network(torch, width=1.0, num_classes=1000):
  """torchvision.models.AlexNet; `width` 1 is the published size."""
  nn = torch.nn
  maps = [round(width * count) for count in (64, 192, 384, 256, 256)]
  units = round(width * 4096)

  class AlexNet(nn.Module):
    def __init__(self):
      super().__init__()
      self.features = nn.Sequential(
        nn.Conv2d(3, maps[0], kernel_size=11, stride=4, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(kernel_size=3, stride=2),
        nn.Conv2d(maps[0], maps[1], kernel_size=5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(kernel_size=3, stride=2),
        nn.Conv2d(maps[1], maps[2], kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(maps[2], maps[3], kernel_size=3, padding=1),
        nn.ReLU(),
        nn.Conv2d(maps[3], maps[4], kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(kernel_size=3, stride=2),
      )
      self.avgpool = nn.AdaptiveAvgPool2d((6, 6))
      self.classifier = nn.Sequential(
        nn.Dropout(),
        nn.Linear(maps[4] * 6 * 6, units),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(units, units),
        nn.ReLU(),
        nn.Linear(units, num_classes),
      )

    def forward(self, x):
      x = self.avgpool(self.features(x))
      return self.classifier(torch.flatten(x, 1))

  return AlexNet().eval()


def caffe_scores(torch, blobs, inputs, *, pool_first):
  """bvlc_alexnet, or CaffeNet if `pool_first`: f32[B,3,227,227] -> scores.

  `blobs` has [weight, bias] by layer, as Caffe lays them out.
  """
  f = torch.nn.functional

  def layer(function, name, x, **options):
    weight, bias = map(torch.tensor, blobs[name])
    return function(x, weight, bias, **options)

  def norm_and_pool(x):
    # Caffe divides alpha by the size of the window, as PyTorch does.
    def norm(x):
      return f.local_response_norm(x, 5, alpha=1e-4, beta=0.75, k=1.0)

    def pool(x):
      return f.max_pool2d(x, 3, 2, ceil_mode=True)

    return norm(pool(x)) if pool_first else pool(norm(x))

  x = torch.tensor(inputs)
  x = norm_and_pool(layer(f.conv2d, "conv1", x, stride=4).relu())
  x = norm_and_pool(layer(f.conv2d, "conv2", x, padding=2, groups=2).relu())
  x = layer(f.conv2d, "conv3", x, padding=1).relu()
  x = layer(f.conv2d, "conv4", x, padding=1, groups=2).relu()
  x = layer(f.conv2d, "conv5", x, padding=1, groups=2).relu()
  x = f.max_pool2d(x, 3, 2, ceil_mode=True).flatten(1)
  x = layer(f.linear, "fc6", x).relu()
  x = layer(f.linear, "fc7", x).relu()
  return layer(f.linear, "fc8", x).numpy()
