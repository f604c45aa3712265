"""Executor: runs plans. It alone calls the model; what is on the device belongs to it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import zip_longest
from typing import Any

import mlx.core as mx

from budmlx.core.activity import Activity
from budmlx.core.batch.drafting import NO_DRAFTS, Drafting, DraftPass
from budmlx.core.batch.group import Group
from budmlx.core.batch.plan import Plan, Prefill, Result
from budmlx.core.batch.prefill import Prompt, find_stored, kind_of_pass
from budmlx.core.batch.states import DiskRead
from budmlx.core.batch.texts import Texts
from budmlx.core.batch.verify import drafts_of
from budmlx.core.model.device_faults import DeviceLostError, ends_the_process, is_device_fault
from budmlx.core.model.memory import MemoryModel, memory_use
from budmlx.core.model.model import Model
from budmlx.core.reuse.blocks import BlockReuse
from budmlx.core.reuse.interface import Allowance, Reusing
from budmlx.core.row import NO_ADAPTER, Row, RowError, RowFault, requests_of
from budmlx.core.sample.plugins import nothing_drawn
from budmlx.core.sample.sampling import Outcome
from budmlx.core.speculate.transcripts import Transcripts
from budmlx.protocol import MemoryBudget, RowFailed, Token, Vector

log = logging.getLogger(__name__)

# Bytes of unused buffers that are given back after a pass: fewer are worth less than making
# them anew. On a CPU MLX never keeps as many.
WORTH_CLEARING = 64 * 2**20


class Executor:
    """The prompts that are being prefilled and the groups that decode, on one model.

    Executors of the same model that get the same rows and run the same plans have the same
    prompts, groups and stored prefixes, and draw the same tokens: nothing depends on a clock or
    on chance. Not thread-safe: everything happens on the core's thread.

    reuse: where KV of former prompts and replies is kept; without it, none is.
    activity: hears what runs. replaceable: another process continues if this one ends, so that it
    ends when the device fails. worth_clearing: bytes of unused buffers that are given back after
    caches have grown.
    prompts, groups: the oldest first; for others to read. texts: those to make vectors of.
    """

    def __init__(
        self,
        model: Model,
        reuse: Reusing | None = None,
        activity: Activity | None = None,
        *,
        replaceable: bool = False,
        worth_clearing: int = WORTH_CLEARING,
    ):
        self.info = model.info
        self.numbers = model.numbers
        self.adapters = model.adapters
        self.paddable = model.paddable
        self.prompts: list[Prompt] = []
        self.groups: list[Group] = []
        self.texts = Texts(model)
        self._model = model
        self.reuse = reuse or BlockReuse(model, 0)
        self._activity = activity or Activity()
        self._replaceable = replaceable
        self._rows: dict[int, Row] = {}
        self._worth_clearing = worth_clearing
        self._speculates = model.info.speculation not in ("off", "unsupported")
        self._said = Transcripts()
        self._progress = _Progress()
        self._device_fault: Exception | None = None
        self._decoded_at: float | None = None

    @property
    def memory(self) -> MemoryModel:
        """What rows take beside the model and its adapters as they are now."""
        return self._model.memory_now

    @property
    def budget(self) -> MemoryBudget:
        """The bounds of memory, but for `longest_row`, which is the scheduler's."""
        memory, policy = self.memory, self._model.policy
        return MemoryBudget(memory.limit, memory.weights, self.reuse.limit, policy.device)

    def set_memory_limit(self, limit: int, prefix_cache: float) -> None:
        """Keep within another limit in bytes, and drop the stored states that are beyond it.

        prefix_cache: its size, see `MemoryPolicy.prefix_cache`.
        """
        self._model = self._model.limited(limit)
        self.reuse.limit = self._model.policy.prefix_cache(prefix_cache, self.memory.weights)
        self.reuse.resize(self.reuse.limit)

    def add(self, row: Row) -> RowFailed | None:
        """Register a row that plans will name; its grammar, if any, is compiled.

        Returns why it cannot run, if it cannot.
        """
        problem, adapter = "", row.request.adapter
        if adapter and adapter not in self.adapters.names:
            return RowFailed(row.id, "model_not_found", NO_ADAPTER, "adapter")
        if row.request.session is not None:
            self._activity.run(("session", row.id))
        try:
            problem = self.reuse.open_session(row.request.session, [adapter])
        except Exception as error:
            if not is_device_fault(error):
                raise
            # The row can run without the session; the next plan says what else is lost.
            self._device_fault = error
        if problem:
            return RowFailed(row.id, "session_error", problem)
        self._rows[row.id] = row
        if self._speculates and row.request.speculation:
            row.drafts = drafts_of(row, self._said)
        return None

    def between_steps(self, change: Callable[[], None]) -> None:
        """Change something of the model. A fault of the device is the next plan's."""
        self._activity.run("change")
        try:
            change()
        except RuntimeError as error:
            if not is_device_fault(error):
                raise
            self._device_fault = error

    def run(self, plan: Plan) -> Result:
        """Run a plan, each action as soon as the one before has been submitted to the device.

        A fault ends the action that raised and nothing else, see `Result.faults`; but a fault of
        the device ends them all, see `Result.condemned`.

        Raises:
            DeviceLostError: the device failed, and another process must continue.
        """
        begin = time.perf_counter()
        self._activity.begin()
        self._progress = _Progress()
        allowed = Allowance(plan.restore)
        try:
            self._carry_out(plan, allowed)
        except Exception as error:
            if not is_device_fault(error):
                raise
            self._condemn(plan, error)
        end = time.perf_counter()
        seconds, before = end - begin, self._decoded_at
        steps = Plan(room=plan.room, decode=plan.decode, draft=plan.draft, pause=plan.pause)
        self._decoded_at = end if plan.decode and plan == steps else None
        failed = self._progress.condemned or bool(self._progress.faults)
        return Result(
            tokens=self._progress.tokens,
            failed=self._progress.failed,
            faults=self._progress.faults,
            condemned=self._progress.condemned,
            masking=self._progress.masking,
            vectors=self._progress.vectors,
            prompts=[prompt.state for prompt in self.prompts],
            groups=[group.state for group in self.groups],
            seconds=seconds,
            passes=self._progress.passes,
            pace=end - before if before and self._decoded_at else None,
            disk=DiskRead(allowed.seconds, allowed.read, allowed.declined),
            memory=memory_use(),
            first_use=self._activity.end(seconds, failed=failed),
        )

    def _carry_out(self, plan: Plan, allowed: Allowance) -> None:
        if self._device_fault is not None:
            raise self._device_fault
        self._rearrange(plan)
        find_stored(self.prompts, self.reuse, allowed)
        if plan.room is not None:
            self.reuse.resize(plan.room)
        if plan.save:
            self.reuse.save()
        if plan.embed is not None:
            vectors, faults = self.texts.run(plan.embed, self._activity)
            self._progress.vectors += vectors
            self._progress.faults += faults
        if plan.prefill is not None:
            self._prefill(plan.prefill)
            # What was stored may serve other prompts.
            find_stored(self.prompts, self.reuse, Allowance(None))
        if plan.decode or plan.pause:
            self._decode(plan)

    def _condemn(self, plan: Plan, error: Exception) -> None:
        """Drop all that was computed: no row, token or stored block of a failed device is trusted.

        What the plan says of rows that leave is done all the same.

        Raises:
            DeviceLostError: see `run`.
        """
        log.error("the device failed: %s", error)
        self._device_fault = None
        self.reuse.clear()
        self.texts.forget()
        self.prompts, self.groups = [], []
        self._progress = _Progress(condemned=True)
        if self._replaceable or ends_the_process(error):
            raise DeviceLostError(str(error)) from error
        for row_id in plan.leave:
            self._rows.pop(row_id, None)
        for row in self._rows.values():
            row.reset(doubtful=True)
        mx.clear_cache()

    def close(self, seconds: float) -> None:
        """Write to disk what can be written within `seconds`."""
        self.reuse.close(seconds)

    # Rows that come and go

    def _rearrange(self, plan: Plan) -> None:
        if plan.forget:
            self.reuse.clear()
        for row_id in plan.keep:
            self._keep(self._rows[row_id])
        if self.texts.requests:
            self.texts.drop(plan.leave)
        left = [self._rows.pop(row_id) for row_id in plan.leave if row_id in self._rows]
        requeued = [self._rows[row_id] for row_id in plan.requeue if row_id in self._rows]
        for row in left if self._speculates else ():
            self._said.add(row.request.namespace, row.generated())
        self._withdraw([*left, *requeued])
        for row in requeued:
            row.reset(doubtful=plan.forget)
        for row_id in plan.compact:
            self._group(row_id).compact()
        for first, second in plan.merge:
            self._merge(self._group(first), self._group(second))
        for ids in plan.admit:
            rows = [self._rows[row_id] for row_id in ids]
            asked = rows[0].request
            marked = [place for place, _ in asked.retained]
            places = self.reuse.places(asked.checkpoints, self.memory.row, marked)
            self.prompts.append(Prompt(rows, self._model.new_cache(), places))

    def _keep(self, row: Row) -> None:
        """Store the KV of a row that is about to leave, or what is computed of its prompt."""
        group = next((group for group in self.groups if row in group.rows), None)
        prompt = next((prompt for prompt in self.prompts if row in prompt.rows), None)
        cache: Callable[[], Sequence[Any]]
        if group is not None and not group.empty:
            held, cache = row.held, partial(group.cache_of, row)
        elif prompt is not None and prompt.computed:
            held, cache = prompt.computed, partial(list, prompt.cache)
        else:
            return
        place = row.request.namespace, row.keys, held
        self._guard((), partial(self.reuse.keep, *place, cache, low=row.background))

    def _withdraw(self, rows: Sequence[Row]) -> None:
        """Take rows out of prompts and groups."""
        if not rows:
            return
        gone = set(rows)
        for prompt in self.prompts:
            prompt.drop(gone)
        self.prompts = [prompt for prompt in self.prompts if prompt.rows]
        for group in self.groups:
            group.keep([row for row in group.rows if row not in gone])
        self.groups = [group for group in self.groups if group.rows]

    def _group(self, row_id: int) -> Group:
        row = self._rows[row_id]
        return next(group for group in self.groups if row in group.rows)

    def _merge(self, group: Group, other: Group) -> None:
        self.groups.remove(other)
        self._activity.run("merge")
        self._guard([*group.rows, *other.rows], group.absorb, other, self._expected)

    @property
    def _expected(self) -> int:
        """Rows that may want a slot soon."""
        return sum(len(prompt.rows) for prompt in self.prompts)

    # Forward passes

    def _prefill(self, prefill: Prefill) -> None:
        leaders = [self._rows[row_id] for row_id in prefill.prompts]
        batch = [prompt for prompt in self.prompts if prompt.rows[0] in leaders]
        batch.sort(key=lambda prompt: leaders.index(prompt.rows[0]))
        rows = [row for prompt in batch for row in prompt.rows]
        self._activity.run(kind_of_pass(batch, prefill.tokens))
        grows = any(prompt.grows(self.memory, prefill.tokens) for prompt in batch)
        if len(batch) > 1:
            self._guard(rows, self._prefill_together, batch)
        else:
            self._guard(rows, self._prefill_one, batch[0], prefill.tokens)
        # A cache grows by making larger arrays, so that every former size is left behind.
        if grows and mx.get_cache_memory() >= self._worth_clearing:
            mx.clear_cache()

    def _prefill_together(self, batch: Sequence[Prompt]) -> None:
        group = Group.together(self._model, self.reuse, batch)
        self.prompts = [prompt for prompt in self.prompts if prompt not in batch]
        self.groups.append(group)

    def _prefill_one(self, prompt: Prompt, count: int) -> None:
        try:
            prompt.compute(self._model, self.reuse, count)
        except RowError as error:
            self._progress.fail(prompt.rows, (error.code, str(error)))
            return
        if not prompt.remaining:
            self.prompts.remove(prompt)
            self.groups += Group.of(self._model, self.reuse, prompt)

    def _decode(self, plan: Plan) -> None:
        for row_id in plan.pause:
            self._group(row_id).pause()
        for row_id, drafting in zip_longest(plan.decode, plan.draft):
            group = self._group(row_id)
            # A merge of this plan may have failed.
            if self._progress.goes_on(group.rows):
                self._guard(group.rows, self._dispatch, group, drafting or NO_DRAFTS)
        drawn: list[tuple[Row, list[Outcome]]] = []
        for group in self.groups:
            if self._progress.goes_on(group.rows):
                self._guard(group.rows, lambda group=group: drawn.extend(group.collect()))
        # Only now, since a device that failed one group's step may have failed that of another.
        for row, outcomes in drawn:
            if row not in self._progress.out:
                self._commit(row, outcomes)

    def _dispatch(self, group: Group, drafting: Drafting) -> None:
        self._activity.run(group.kind(drafting))
        for row, fault in group.dispatch(self._expected, drafting).items():
            self._progress.fail([row], fault)
        self._progress.masking += group.masking
        self._progress.passes += group.passes

    def _commit(self, row: Row, outcomes: Sequence[Outcome]) -> None:
        for drawn in outcomes:
            if not drawn.finite:
                self._progress.fail([row], nothing_drawn(row, drawn.spoilt))
                return
            reason = row.commit([drawn.token])
            more = (drawn.logprob, drawn.top, row.cached, row.from_disk, row.written, row.draft)
            self._progress.tokens.append(Token(row.id, drawn.token, reason, *more))
            row.cached, row.from_disk, row.written, row.draft = 0, 0, 0, None
            if reason is not None:
                self._progress.out.add(row)
                return

    def _guard(self, rows: Iterable[Row], action: Callable[..., None], *arguments: Any) -> None:
        """Call `action`; if it raises, these rows take no further part in the plan.

        Faults of the device are raised, and all faults where other ranks would go on.
        """
        try:
            action(*arguments)
        except Exception as error:
            rows = list(rows)
            log.exception("a step of %d rows failed: %s", len(rows), requests_of(rows))
            if is_device_fault(error) or self._model.ranks is not None:
                raise
            mx.clear_cache()
            self._progress.faults.append([row.id for row in rows])
            self._progress.out.update(rows)


class _Progress:
    """The results of a plan so far. out: rows that take no further part in it.

    condemned, masking: see `Result`.
    """

    def __init__(self, *, condemned: bool = False) -> None:
        self.condemned = condemned
        self.masking = 0.0
        self.passes: list[DraftPass] = []
        self.tokens: list[Token] = []
        self.vectors: list[Vector] = []
        self.failed: list[RowFailed] = []
        self.faults: list[list[int]] = []
        self.out: set[Row] = set()

    def fail(self, rows: Iterable[Row], fault: RowFault) -> None:
        """End rows through a fault of their own."""
        for row in rows:
            self.failed.append(RowFailed(row.id, *fault))
            self.out.add(row)

    def goes_on(self, rows: Iterable[Row]) -> bool:
        """Whether any of these rows still takes part."""
        return not self.out or not self.out.issuperset(rows)
