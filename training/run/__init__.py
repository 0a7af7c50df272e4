"""A run: its state, steps, checkpoints, budget, and what makes two runs the same one."""

from training.run.aside import refuse_inner_start, times_moved
from training.run.averaging import local
from training.run.budget import Budget
from training.run.checkpoint import load_newest
from training.run.feeding import fetching, preprocessing_of, stated_by_timm
from training.run.finished import (
    BELOW_START,
    finished_bundle,
    keep_bundle,
    put_aside,
    told_finished,
)
from training.run.memory import available_memory
from training.run.preparing import Prepared, prepare
from training.run.resuming import refuse_another, resume
from training.run.saving import begin, restarted, save
from training.run.starting import (
    build_session,
    check_start,
    optimizer_for,
    seed_everything,
    settle,
)
from training.run.state import Session, State, told
from training.run.stepping import Entry, Unread, judge, one_step, take_step
from training.run.weights import encoder_of

__all__ = [
    "BELOW_START",
    "Budget",
    "Entry",
    "Prepared",
    "Session",
    "State",
    "Unread",
    "available_memory",
    "begin",
    "build_session",
    "check_start",
    "encoder_of",
    "fetching",
    "finished_bundle",
    "judge",
    "keep_bundle",
    "load_newest",
    "local",
    "one_step",
    "optimizer_for",
    "prepare",
    "preprocessing_of",
    "put_aside",
    "refuse_another",
    "refuse_inner_start",
    "restarted",
    "resume",
    "save",
    "seed_everything",
    "settle",
    "stated_by_timm",
    "take_step",
    "times_moved",
    "told",
    "told_finished",
]
