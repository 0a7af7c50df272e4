"""Embedding millions of images: a listing on disk, workers that share it, parts written as they are done.

`job` says what a run is and when two are the same, `store` holds its rows and knows which are there, `spool`
the images still to do, `saying` what probes say of rows, `workers` are who embeds them (`over_ray` on a
cluster), `work` brings them together. Nothing here grows with the number of images but 16 bytes for each that
was there before (`store.Keys`).
"""

from serving.bulk.job import Job
from serving.bulk.over_ray import on_cluster
from serving.bulk.saying import heads_of
from serving.bulk.spool import Spool
from serving.bulk.store import Store, store_for
from serving.bulk.work import work
from serving.bulk.workers import Worker, at_endpoints, here

__all__ = [
    "Job",
    "Spool",
    "Store",
    "Worker",
    "at_endpoints",
    "heads_of",
    "here",
    "on_cluster",
    "store_for",
    "work",
]
