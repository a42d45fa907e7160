"""The explorer: a page to look into a trained network, made with Gradio.

Importing this file imports Gradio; nothing else in the package does.
"""

import atexit
import functools
import os
import pathlib
import shutil
import sys
import tempfile

import gradio as gr
import numpy as np

from alexnet_jax.analysis import explorer_panels as panels
from alexnet_jax.analysis.kernel_responses import kernel_responses
from alexnet_jax.analysis.neighbours import NeighbourSearch
from alexnet_jax.analysis.run_images import RunImages, open_images
from alexnet_jax.analysis.traces import Trace, trace
from alexnet_jax.data.images import UndecodableImage
from alexnet_jax.runtime.command import UserError
from alexnet_jax.training.classifier import Classifier

GALLERY = 12  # pictures of the dataset shown at a time
MAX_UPLOAD = 64 * 2**20  # bytes; photographs are smaller
HOUR = 3600  # seconds after which uploaded pictures are deleted
NO_CUT = "none"
NO_PICTURE = "Drop a picture, take one, or choose one of the dataset."


class Explorer:
  """The functions behind the page of one network."""

  def __init__(
    self,
    net: Classifier,
    validation: RunImages | str,
    search: NeighbourSearch | str,
  ):
    """Where images are missing, a sentence says why."""
    self.net, self.validation, self.search = net, validation, search
    self.network = net.model.towers.network
    # A cut network shares all but the kernels that read other towers; those of
    # fc6 and fc7 are the largest.
    self._cut = functools.lru_cache(maxsize=4)(net.cut)

  def look(self, path: str | None, exchanges: list[str], tower: str):
    """The panels for a picture: classes, maps, exchanges, kernels, nearest.

    Args:
      path: of the picture.
      exchanges: that are cut.
      tower: that is cut, such as "tower 1", or NO_CUT.
    """
    if not path:
      return panels.message(NO_PICTURE), "", "", "", ""
    try:
      square = self.net.square(path)
    except UndecodableImage as error:
      text = f"This picture cannot be read: {error}."
      return panels.message(text), "", "", "", ""
    words, network = self.net.words, self.network
    towers = () if tower == NO_CUT else (int(tower.split()[-1]),)
    whole = trace(self.net, square)
    cut = None
    if exchanges or towers:
      names = tuple(name for name in exchanges if name != "fc8")
      net = self._cut(names, towers)
      cut = trace(net, square, towers, summed="fc8" not in exchanges)
    without = {
      name: _only_answer(trace(self._cut((name,)), square))
      for name in network.exchanges
      if name != "fc8"
    }
    found = cut or whole
    return (
      panels.classes(words, whole, cut),
      panels.maps(network, found, towers),
      panels.exchanges(network, words, found, without, _only_answer(whole)),
      panels.kernels(kernel_responses(self.net, square), self.net.layers[0]),
      self._nearest_if_ready(whole),
    )

  def _nearest_if_ready(self, whole: Trace) -> str:
    if isinstance(self.search, str):
      return panels.message(self.search)
    if not self.search.ready:
      return ""
    return self._nearest(whole, lambda share: None)

  def find_nearest(self, path: str | None, progress=gr.Progress()):  # noqa: B008
    """The panel of the nearest training images, which may be read now."""
    if not path:
      return panels.message(NO_PICTURE)
    try:
      square = self.net.square(path)
    except UndecodableImage as error:
      return panels.message(f"This picture cannot be read: {error}.")
    whole = trace(self.net, square)
    return self._nearest(
      whole, lambda share: progress(share, desc="training images")
    )

  def _nearest(self, whole: Trace, progress) -> str:
    features = np.concatenate(
      [x.ravel() for x in whole.maps[self.search.layer]]
    )
    found = self.search.nearest(features, progress)
    return panels.neighbours(found, self.net.words, self.search)

  def gallery(self, indices: list[int]):
    """Pictures of the dataset with the names of their classes."""
    images, labels = self.validation.read(indices)
    return [
      (image, self.net.words[label])
      for image, label in zip(images, labels, strict=True)
    ]

  def other_pictures(self):
    """Random pictures of the dataset, and their indices."""
    count = min(GALLERY, len(self.validation))
    drawn = np.random.default_rng().choice(
      len(self.validation), count, replace=False
    )
    indices = sorted(drawn.tolist())
    return self.gallery(indices), indices

  def chosen(self, indices: list[int], event: gr.SelectData):
    """The picture of the gallery that was clicked."""
    return self.validation.read([indices[event.index]])[0][0]

  def page(self) -> gr.Blocks:
    """The page and its events; `serve` shows it."""
    has_images = not isinstance(self.validation, str)
    has_search = not isinstance(self.search, str)
    names = [f"tower {i}" for i in range(self.network.towers)]
    with gr.Blocks(
      title="AlexNet explorer",
      analytics_enabled=False,
      delete_cache=(HOUR, HOUR),
    ) as page:
      gr.HTML(
        panels.element("h2", "AlexNet explorer")
        + panels.element("p", self.net.source, class_="explorer")
      )
      with gr.Row():
        with gr.Column(min_width=300):
          picture = gr.Image(
            label="Picture",
            format="png",
            sources=["upload", "webcam", "clipboard"],
            height=300,
            buttons=[],
            elem_classes="explorer-picture",
          )
          picture.preprocess = _uploaded_path
          exchanges = gr.CheckboxGroup(
            list(self.network.exchanges),
            label="Cut exchanges",
            visible=len(names) > 1,
          )
          tower = gr.Radio(
            [NO_CUT, *names],
            value=NO_CUT,
            label="Cut a tower",
            visible=len(names) > 1,
          )
        with gr.Column(min_width=300):
          classes = gr.HTML(panels.message(NO_PICTURE))
      if has_images:
        indices = np.linspace(
          0, len(self.validation) - 1, min(GALLERY, len(self.validation))
        )
        shown = gr.State(indices.astype(int).tolist())
        gallery = gr.Gallery(
          self.gallery(shown.value),
          label=f"Pictures of the dataset ({self.validation.split})",
          format="png",
          columns=6,
          height="auto",
          allow_preview=False,
          interactive=False,
          object_fit="cover",
          buttons=[],
          elem_classes="explorer-gallery",
        )
        others = gr.Button("Other pictures", size="sm")
      else:
        gr.HTML(panels.message(self.validation))
      with gr.Tabs():
        with gr.Tab("Maps"):
          maps = gr.HTML()
        with gr.Tab("Exchanges"):
          crossing = gr.HTML()
        with gr.Tab("Kernels"):
          kernels = gr.HTML()
        with gr.Tab("Nearest"):
          find = gr.Button(
            "Find the nearest training images", size="sm", visible=has_search
          )
          nearest = gr.HTML("" if has_search else panels.message(self.search))

      options = {"api_visibility": "private"}
      gr.on(
        [picture.change, exchanges.change, tower.change],
        self.look,
        [picture, exchanges, tower],
        [classes, maps, crossing, kernels, nearest],
        trigger_mode="always_last",
        show_progress="minimal",
        **options,
      )
      find.click(self.find_nearest, picture, nearest, **options)
      if has_images:
        others.click(self.other_pictures, None, [gallery, shown], **options)
        gallery.select(self.chosen, shown, picture, **options)
        page.load(
          lambda: self.validation.read([shown.value[0]])[0][0],
          None,
          picture,
          **options,
        )
    return page


def _uploaded_path(payload) -> str | None:
  """The path of an uploaded file, whatever it contains.

  In place of `gr.Image.preprocess`, which opens the file with Pillow, and fails
  without a reason if it cannot. (A subclass would not do: Gradio writes a file
  beside the code of each.)
  """
  return payload.path if payload else None


def _only_answer(found: Trace) -> np.ndarray:
  (answer,) = found.answers.values()
  return answer


def make_explorer(
  net: Classifier, path: str, data_dir: str = "", search: int = 0
) -> Explorer:
  """The explorer of a network that was loaded from `path`.

  Args:
    net: the network.
    path: the directory of its run; or a file of weights, which has no dataset.
    data_dir: where the dataset is now; "": where it was in training.
    search: training images among which the nearest are looked for; 0: all.
  """
  if os.path.isfile(path):
    text = "A file of weights has no {}: start the explorer on a run for them."
    return Explorer(net, text.format("dataset"), text.format("training images"))
  found = []
  for split in ("validation", "train"):
    try:
      found.append(open_images(path, split, data_dir))
    except UserError as error:
      found.append(f"The {split} images are not here: {error}")
  validation, train = found
  if isinstance(train, RunImages):
    train = NeighbourSearch(net, train, search)
  return Explorer(net, validation, train)


def serve(
  explorer: Explorer, host: str = "", port: int = 0, share: bool = False
) -> None:
  """Shows the page until Ctrl-C; in a notebook below the cell, at once.

  Args:
    explorer: of a network.
    host: address to listen on; "": GRADIO_SERVER_NAME, or 127.0.0.1.
    port: 0: GRADIO_SERVER_PORT, or the first free one from 7860.
    share: also at a public address, through the servers of Gradio.

  Raises:
    UserError: the port is in use, or the address is not of this machine.
  """
  if "GRADIO_TEMP_DIR" not in os.environ:  # by default all users' /tmp/gradio
    folder = tempfile.mkdtemp(prefix="alexnet_jax_explorer_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["GRADIO_TEMP_DIR"] = folder
  page = explorer.page()
  style = pathlib.Path(__file__).with_name("explorer.css").read_text()
  fonts = ["system-ui", "sans-serif"]  # the reader's own: nothing is loaded
  try:
    _, address, public = page.launch(
      server_name=host or None,
      server_port=port or None,
      share=share,
      quiet=True,
      prevent_thread_lock=True,
      theme=gr.themes.Default(font=fonts, font_mono=["monospace"]),
      css=style,
      footer_links=[],
      run_history=False,
      ssr_mode=False,
      max_file_size=MAX_UPLOAD,
      enable_monitoring=False,
      height=900,
    )
  except OSError as error:
    raise UserError(
      f"the explorer cannot listen on {host or '127.0.0.1'}, port"
      f" {port or '7860 to 7959'} ({error}). Choose another --host or --port."
    ) from None
  print(f"Explorer of {explorer.net.source}: {public or address}", flush=True)
  if not hasattr(sys, "ps1"):  # neither a notebook nor a Python prompt
    page.block_thread()
