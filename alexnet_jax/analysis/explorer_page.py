"""The explorer's page: its components and events, made with Gradio.

Importing this file imports Gradio, which is optional; no other file does.
"""

import atexit
import os
import pathlib
import shutil
import socket
import sys
import tempfile

import gradio as gr

from alexnet_jax.analysis import explorer_panels as panels
from alexnet_jax.analysis.explorer import NO_CUT, NO_PICTURE, Explorer
from alexnet_jax.runtime.command import UserError

MAX_UPLOAD = 64 * 2**20  # bytes; photographs are smaller
HOUR = 3600  # seconds after which uploaded pictures are deleted


def make_page(explorer: Explorer) -> gr.Blocks:
  """The page of a network; `serve` shows it."""
  validation, search = explorer.validation, explorer.search
  has_images = not isinstance(validation, str)
  has_search = not isinstance(search, str)
  first = explorer.first_indices() if has_images else []
  names = [f"tower {i}" for i in range(explorer.network.towers)]

  def find_nearest(path, progress=gr.Progress()):  # noqa: B008
    def show(share):
      progress(share, desc="training images")

    return explorer.find_nearest(path, show)

  def other_pictures():
    indices = explorer.random_indices()
    return explorer.gallery(indices), indices

  def chosen(indices, event: gr.SelectData):
    return explorer.validation.read([indices[event.index]])[0][0]

  with gr.Blocks(
    title="AlexNet explorer",
    analytics_enabled=False,
    delete_cache=(HOUR, HOUR),
  ) as page:
    gr.HTML(
      panels.element("h2", "AlexNet explorer")
      + panels.element("p", explorer.net.source, class_="explorer")
    )
    with gr.Row():
      with gr.Column(min_width=300):
        picture = gr.Image(
          validation.read(first[:1])[0][0] if has_images else None,
          label="Picture",
          format="png",
          sources=["upload", "webcam", "clipboard"],
          height=300,
          buttons=[],
          elem_classes="explorer-picture",
        )
        picture.preprocess = _uploaded_path
        exchanges = gr.CheckboxGroup(
          list(explorer.network.exchanges),
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
      shown = gr.State(first)
      gallery = gr.Gallery(
        explorer.gallery(first),
        label="Pictures of the dataset",
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
      gr.HTML(panels.message(validation))
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
        nearest = gr.HTML("" if has_search else panels.message(search))

    options = {"api_visibility": "private"}
    gr.on(
      [page.load, picture.change, exchanges.change, tower.change],
      explorer.look,
      [picture, exchanges, tower],
      [classes, maps, crossing, kernels, nearest],
      trigger_mode="always_last",
      show_progress="minimal",
      **options,
    )
    find.click(find_nearest, picture, nearest, **options)
    if has_images:
      others.click(other_pictures, None, [gallery, shown], **options)
      gallery.select(chosen, shown, picture, **options)
  return page


def check_address(host: str, port: int) -> None:
  """Checks the arguments of `serve` before a network is loaded.

  Raises:
    UserError: the port is in use, or the address is not of this machine.
  """
  host = host or os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1")
  family = socket.AF_INET6 if ":" in host else socket.AF_INET
  try:
    socket.create_server((host.strip("[]"), port), family=family).close()
  except OSError as error:
    raise UserError(
      f"the explorer cannot listen on {host}, port {port} ({error.strerror})."
      " Choose another --host or --port."
    ) from None


def serve(
  explorer: Explorer, host: str = "", port: int = 0, share: bool = False
) -> None:
  """Shows the page until Ctrl-C; in a notebook below the cell, at once.

  Args:
    explorer: of a network.
    host: address to listen on; "": GRADIO_SERVER_NAME, or 127.0.0.1.
    port: 0: GRADIO_SERVER_PORT, or the first free one from 7860.
    share: also at a public address, through the servers of Gradio.
  """
  if "GRADIO_TEMP_DIR" not in os.environ:  # by default all users' /tmp/gradio
    folder = tempfile.mkdtemp(prefix="alexnet_jax_explorer_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["GRADIO_TEMP_DIR"] = folder
  page = make_page(explorer)
  style = pathlib.Path(__file__).with_name("explorer.css").read_text()
  fonts = ["system-ui", "sans-serif"]  # the reader's own: nothing is loaded
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
  print(f"Explorer of {explorer.net.source}: {public or address}", flush=True)
  if not hasattr(sys, "ps1"):  # neither a notebook nor a Python prompt
    page.block_thread()


def _uploaded_path(payload) -> str | None:
  """The path of an uploaded file, whatever it contains.

  In place of `gr.Image.preprocess`, which opens the file with Pillow, and fails
  without a reason if it cannot. (A subclass would not do: Gradio writes a file
  beside the code of each.)
  """
  return payload.path if payload else None
