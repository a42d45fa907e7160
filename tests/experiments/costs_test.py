"""The cost of the study on ImageNet."""

from experiments import costs


def test_hours_are_images_over_the_rate(monkeypatch):
  monkeypatch.setattr(costs, "images_per_second", lambda: 32_029.175)
  # One training is 90 epochs: an hour at 90 x 1,281,167 / 3,600 images/s.
  rows = {
    line.split("|")[1].strip(" `"): [cell.strip() for cell in line.split("|")]
    for line in costs.table().splitlines()
  }
  assert rows["weight_decay"][2:5] == ["5", "0.6", "5.0"]
  # Source, mean and none for five seeds, two of them also twice as long.
  assert rows["dropout"][2:5] == ["20", "3.5", "30.0"]
  assert rows["lrn"][2] == "35"


def test_the_rate_is_that_of_the_slowest_bound():
  # 5.42 GB at the 3.35 TB/s of an H100, for 128 images.
  assert abs(costs.images_per_second() - 128 / (5.4208e9 / 3.35e12)) < 20
