"""Views: every image cut, turned and lit with its own random numbers, on the CPU or the device."""

from training.views.batches import Batch, Cutter, Finisher, Prefetcher, Took, Views
from training.views.boxes import crop_boxes, draw
from training.views.canvas import fitted
from training.views.cpu import cut_views, preset
from training.views.device import cut_on_device, pack_images
from training.views.light import add_noise, photometry
from training.views.normalise import Normalise

__all__ = [
    "Batch",
    "Cutter",
    "Finisher",
    "Normalise",
    "Prefetcher",
    "Took",
    "Views",
    "add_noise",
    "crop_boxes",
    "cut_on_device",
    "cut_views",
    "draw",
    "fitted",
    "pack_images",
    "photometry",
    "preset",
]
