"""What a run writes: as it begins, and its checkpoints."""

from __future__ import annotations

import os
from pathlib import Path

from jepack.decoding import Preprocessing
from jepack.files import write_json
from training.data import Images
from training.parallel import Ranks, alone
from training.run import checkpoint
from training.run.aside import move_aside
from training.run.state import Session, State
from training.run.telling import print_line
from training.run.weights import gathered, plain
from training.settings import TrainConfig


def save(session: Session, out: Path, config: TrainConfig, here: Ranks) -> None:
    """Write the newest checkpoint; every rank calls it."""
    state = session.state
    content = {
        "step": state.step,
        "total": state.total,
        "lowest_loss": state.lowest_loss,
        "config": config.to_json(),
        "run": state.record,
        **(gathered(state) if session.sharded else plain(state) if here.first else {}),
    }
    alone(here, lambda: checkpoint.save(out, state.step, content, config.keep_checkpoints))
    session.last_checkpoint = checkpoint.folder_of(out, state.step)


def restarted() -> bool:
    """Whether torchrun has started these processes again: what --fresh asked for is done by then."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def begin(
    state: State,
    out: Path,
    config: TrainConfig,
    preprocessing: Preprocessing,
    images: Images,
    fresh: bool,
) -> None:
    """The first thing that writes into `out`. `config.json` is what a run began with and stays."""
    moved = move_aside(out) if fresh else None
    if moved is not None:
        print_line(f"the run that was in {out} lies in {moved} now")
    if state.step == 0 or not (out / "config.json").is_file():
        write_json(out / "config.json", config.to_json())
    write_json(out / "history.json", state.record["history"])
    write_json(out / "preprocessing.json", preprocessing.to_json())
    write_json(out / "bad_images.json", [list(entry) for entry in images.bad])
