"""Ranks: one process or many under torchrun, what they tell each other, and work that one does alone."""

from __future__ import annotations

import datetime
import inspect
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from jepack.errors import ConfigError, JepackError, TrainingError
from jepack.sigreg import world_size
from training.parallel import stopping
from training.parallel.devices import choose_device

# A rank that a step waits for longer is lost. The first step of a compiled network is the longest, minutes.
STEP_LIMIT = datetime.timedelta(minutes=10)
# A rank at work answers every half second, from a thread; only one that hangs does not.
WORD_LIMIT = datetime.timedelta(minutes=30)
ANSWER_S = 0.5
FINE, STOPPED = 0, 1  # how a rank's work ended, or STOPPED + the exit code of its failure

# Words of gloo and NCCL when the other end of a connection is gone.
LOST = (
    "Connection reset by peer", "Connection closed by peer", "Broken pipe", "remote process exited",
)  # fmt: skip

T = TypeVar("T")

# Over gloo on the CPU, whatever the device: Python values and short words, which no GPU should wait for.
_words: Any = None


@dataclass(frozen=True)
class Ranks:
    """Where this process stands."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        return self.rank == 0


@contextmanager
def ranks(device: str | None = None) -> Iterator[Ranks]:
    """Join the process group that torchrun set up, or run alone. `device` as in `choose_device`."""
    global _words
    world = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    chosen = choose_device(device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if world == 1:
        yield Ranks(0, 1, chosen)
        return
    dist.init_process_group(backend_for(device, chosen), timeout=STEP_LIMIT)
    _words = dist.new_group(backend="gloo", timeout=WORD_LIMIT)
    try:
        yield Ranks(rank, world, chosen)
    except RuntimeError as error:
        if not any(sign in str(error) for sign in LOST):
            raise
        first = str(error).strip().splitlines()[0][-160:]
        raise TrainingError(
            f"rank {rank} lost another rank ({first}). The one that failed first says why; if it says "
            "nothing, it was killed, often for memory. The same command continues from the last checkpoint."
        ) from error
    finally:
        _words = None
        dist.destroy_process_group()


def backend_for(wanted: str | None, device: torch.device) -> str:
    """NCCL where each rank has a GPU of its own; gloo on CPUs and for ranks that share the GPU they name."""
    if device.type != "cuda":
        return "gloo"
    shared = wanted is not None and ":" in wanted and os.environ.get("LOCAL_WORLD_SIZE", "1") != "1"
    if not shared and not dist.is_nccl_available():
        raise ConfigError("several GPUs need NCCL, which this torch lacks. Use a Linux build of it")
    return "gloo" if shared else "nccl"


def no_buffer_sync() -> dict[str, Any]:
    """DDP's word for "leave buffers alone", which torch 2.14 has changed."""
    known = inspect.signature(DistributedDataParallel).parameters
    new = "forward_sync_buffers"
    return {new if new in known else "broadcast_buffers": False}


def barrier() -> None:
    if world_size() > 1:
        dist.barrier(group=_words)


def broadcast(value: Any) -> Any:
    """Rank 0's Python value, on every rank."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, group=_words)
    return box[0]


def alone(here: Ranks, work: Callable[[], T]) -> T | None:
    """What `work` gives, on rank 0; the others wait for it, however long it takes, and get None."""
    return together(here, work if here.first else lambda: None)


def together(here: Ranks, work: Callable[[], T]) -> T:
    """What `work` gives on each rank, when all have done theirs, however long one of them takes.

    All ranks end alike: a signal to any of them ends the work of all, and so does what one raises.
    Meanwhile a thread tells the others that this rank is at work.
    """
    if here.world == 1:
        return work()
    ended = threading.Event()
    mine, heard, faults = [FINE], [FINE], list[RuntimeError]()

    def tell() -> None:
        while True:
            ended.wait(ANSWER_S)
            busy = not ended.is_set()
            try:
                going, heard[0] = exchange(busy, mine[0])
            except RuntimeError as error:  # a rank is gone
                faults.append(error)
            if (faults or heard[0] != FINE) and not ended.is_set():
                stopping.interrupt()
            if faults or heard[0] != FINE or not going:
                return

    thread = threading.Thread(target=tell, name="tell", daemon=True)
    thread.start()
    raised: BaseException | None = None
    try:
        result = work()
    except BaseException as error:
        raised, mine[0] = error, code_of(error)
    ended.set()
    while thread.is_alive():
        try:
            thread.join(ANSWER_S)
        except KeyboardInterrupt as error:
            if isinstance(raised, KeyboardInterrupt):
                raise
            raised, mine[0] = error, STOPPED
    if faults:
        raise faults[0]
    if isinstance(raised, KeyboardInterrupt) and heard[0] > STOPPED:
        raised = None  # only to leave the work, as another rank failed
    if raised is not None:
        raise raised
    if heard[0] == STOPPED:
        raise KeyboardInterrupt
    if heard[0] != FINE:
        failure = TrainingError(
            f"rank {here.rank} ends with one that failed, whose message says why"
        )
        failure.exit_code = heard[0] - STOPPED
        raise failure
    return result


def code_of(error: BaseException) -> int:
    if isinstance(error, KeyboardInterrupt):
        return STOPPED
    return STOPPED + (error.exit_code if isinstance(error, JepackError) else 1)


def exchange(busy: bool, code: int) -> tuple[bool, int]:
    """Whether any rank is still at work, and the worst that ended one."""
    word = torch.tensor([int(busy), code])
    dist.all_reduce(word, op=dist.ReduceOp.MAX, group=_words)
    return bool(word[0]), int(word[1])


class Votes:
    """What any rank wants of all, known to all at the same step. Nobody waits: it is counted during the
    step that follows, so several ranks act one step later than one process would."""

    def __init__(self) -> None:
        self.open: tuple[Any, torch.Tensor] | None = None

    def take(self, wishes: tuple[bool, ...]) -> tuple[bool, ...]:
        """What was voted for at the end of the step before; one process's wishes as they are."""
        if world_size() == 1:
            return wishes
        if self.open is None:
            return tuple(False for _ in wishes)
        work, word = self.open
        self.open = None
        work.wait()
        return tuple(bool(wish) for wish in word.tolist())

    def cast(self, wishes: tuple[bool, ...]) -> None:
        if world_size() > 1:
            word = torch.tensor([int(wish) for wish in wishes])
            self.open = dist.all_reduce(word, dist.ReduceOp.MAX, group=_words, async_op=True), word
