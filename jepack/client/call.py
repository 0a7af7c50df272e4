"""The plan of one `embed` without input and output: its batches, the way of each, the rows as they come."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from jepack.client.answers import Embeddings, Endpoint, Rows, outputs_of, probes_of
from jepack.client.core import Core, Limit, Steps, check_count, check_seconds
from jepack.client.failures import BusyError, RequestError
from jepack.client.items import Batch, Item, batches_of, name_of
from jepack.client.wire import PROBE
from jepack.errors import DataError


@dataclass(frozen=True)
class Part:
    """What came of a batch: its items' numbers, rows of the good ones, reasons of the bad ones."""

    numbers: list[int]
    rows: dict[str, Rows]
    bad: dict[int, str]


class Call:
    """One `embed`: which batches there are, the steps of each, and the rows as they come."""

    def __init__(
        self,
        core: Core,
        endpoint: Endpoint,
        items: Sequence[Item],
        outputs: tuple[str, ...],
        probes: tuple[str, ...],
        *,
        batch_size: int,
        skip_bad: bool,
        limit: Limit,
    ) -> None:
        self.core, self.endpoint, self.items = core, endpoint, items
        self.probes = {name: f"{PROBE}{name}" for name in probes}  # its output
        self.outputs = (*outputs, *self.probes.values())
        self.skip_bad, self.limit, self.done = skip_bad, limit, 0
        self.batch_size = min(batch_size, endpoint.max_batch_size)
        widths = {
            output: dims if output in outputs else 0 for output, dims in endpoint.dimensions.items()
        } | {output: len(endpoint.probes[name]) for name, output in self.probes.items()}
        self.rows = {
            output: np.full((len(items), width), np.nan, np.float32)
            for output, width in widths.items()
        }
        self.errors: dict[int, str] = {}

    def batches(self) -> Iterator[Batch]:
        return batches_of(self.items, self.batch_size, self.endpoint.max_bytes)

    def steps(self, batch: Batch) -> Steps[Part]:
        """The way of one batch. One bad image fails its request, so ask one by one to learn which."""
        bad, good = dict(batch.unread), dict(batch.images)
        answers: list[dict[str, Rows]] = []
        try:
            answers = [(yield from self._ask(list(good.values())))] if good else []
        except (DataError, RequestError) as refusal:
            for number, image in good.items():
                try:
                    if len(good) == 1:
                        raise refusal
                    answers.append((yield from self._ask([image])))
                except DataError as error:
                    bad[number] = str(error)
                except RequestError as error:
                    if (yield from self.core.diagnose(5.0)) is not None:  # no image is answered
                        raise
                    bad[number] = str(error)
        rows = {
            output: np.concatenate([answer[output] for answer in answers])
            for output in (answers[0] if answers else {})
        }
        return Part(sorted([*batch.images, *batch.unread]), rows, bad)

    def _ask(self, images: list[bytes]) -> Steps[dict[str, Rows]]:
        if self.limit.left_s() < self.core.least_s():
            raise self.late()
        limit = Limit(min(self.core.timeout_s, self.limit.left_s()))
        try:
            return (yield from self.core.infer(images, self.outputs, limit, tries=math.inf))
        except BusyError as error:
            if self.limit.left_s() < self.core.least_s():
                raise self.late() from error
            raise

    def late(self) -> BusyError:
        return late(self.core.url, self.done, len(self.items), self.limit)

    def add(self, part: Part) -> None:
        """Raises DataError naming a bad image, unless they are skipped."""
        if part.bad and not self.skip_bad:
            number, reason = min(part.bad.items())
            raise DataError(f"{name_of(self.items[number], number)}: {reason}")
        self.errors.update(part.bad)
        kept = [number for number in part.numbers if number not in part.bad]
        for output, values in part.rows.items():
            self.rows[output][kept] = values
        self.done += len(part.numbers)

    def result(self) -> Embeddings:
        return Embeddings(
            self.rows["embedding"],
            self.rows["projection"],
            dict(self.endpoint.fingerprints),
            dict(sorted(self.errors.items())),
            self.endpoint.default_output,
            tuple(name_of(item, number) for number, item in enumerate(self.items)),
            {name: self.rows[output] for name, output in self.probes.items()},
        )


def begun(
    core: Core,
    items: Sequence[Item],
    output: str,
    probes: str | Sequence[str],
    batch_size: int,
    concurrency: int,
    deadline_s: float | None,
    skip_bad: bool,
) -> Steps[Call]:
    """A call whose arguments are checked, before anything is asked, and whose endpoint is known."""
    outputs = outputs_of(output)
    check_count("batch_size", batch_size)
    check_count("concurrency", concurrency)
    if deadline_s is not None:
        check_seconds("deadline_s", deadline_s)
    limit = Limit(math.inf if deadline_s is None else deadline_s)
    first = Limit(min(core.timeout_s, limit.left_s()))
    try:
        endpoint = yield from core.endpoint(first, fresh=True)
    except BusyError as error:
        if limit.left_s() < core.least_s():
            raise late(core.url, 0, len(items), limit) from error
        raise
    names = probes_of(probes, endpoint, core.url)
    return Call(
        core, endpoint, items, outputs, names, batch_size=batch_size, skip_bad=skip_bad, limit=limit
    )


def late(url: str, done: int, items: int, limit: Limit) -> BusyError:
    return BusyError(
        f"{url}: {done:,} of {items:,} images were embedded within {limit.seconds:g} s, and no other request "
        "can end in time. Allow more: deadline_s"
    )
