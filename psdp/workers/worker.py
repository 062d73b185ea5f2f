"""The loop of a rank that computes: gradients as rank 0 orders, and its part of each evaluation."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from psdp.cast import Term
from psdp.checkpoint import CheckpointStore, Inner, Snapshot
from psdp.job import Job
from psdp.modes import Pushed
from psdp.params import Array
from psdp.protocol import Sums, Work, some_of
from psdp.records.timeline import NOBODY_LOOKS, Timeline
from psdp.task import Measured
from psdp.transport import Endpoint
from psdp.transport import messages as m
from psdp.transport.reducer import Reducer
from psdp.workers import goodbye
from psdp.workers.computing import Computing, Took
from psdp.workers.counting import counts
from psdp.workers.exchange import Exchange
from psdp.workers.hosted import Hosted
from psdp.workers.listening import Listening, TermBegins
from psdp.workers.reduced import ReducedTraining
from psdp.workers.replica import Replica
from psdp.workers.sampling import tell_sample
from psdp.workers.saving import Saving
from psdp.workers.training import OverlappedTraining, Trained, Training, make_trainings

KEEPS_WEIGHTS = (Pushed.GRADIENT, Pushed.NOTHING)
"""What a rank may push for one worker, and the next one begins with the weights of the answer too:
they are as they were, or all workers have the same."""


class Worker:
    """Computes for its workers what rank 0 orders, until it says stop for all of them.

    Args:
        reducer: adds up the ranks' gradients, with ``--mode allreduce``.
        snapshot: to go on from, where the workers' optimizer is in it.
        inner: what workers go on with, by their numbers.
        store: of the run folder, where checkpoints hold what workers have for themselves.
        listening: has heard already, where this rank was spare until now.
        signalled: returns the name of a signal that asked this rank to end, or None.
        timeline: takes note of what this rank does when.
    """

    leads = False

    def __init__(
        self,
        job: Job,
        endpoint: Endpoint,
        replica: Replica,
        *,
        reducer: Reducer | None = None,
        snapshot: Snapshot | None = None,
        inner: Mapping[int, Inner] | None = None,
        store: CheckpointStore | None = None,
        listening: Listening | None = None,
        signalled: Callable[[], str | None] = lambda: None,
        now: Callable[[], float] = time.monotonic,
        timeline: Timeline = NOBODY_LOOKS,
    ) -> None:
        self.job = job
        self.endpoint = endpoint
        self.replica = replica
        self._now, self._timeline = now, timeline
        self.exchange = Exchange(job, endpoint, replica, signalled, now, listening, timeline)
        self.computing = Computing(job, endpoint.rank, replica, self.exchange, reducer, now)
        self._snapshot = snapshot
        self.hosted: dict[int, Hosted] = {}
        self._store = store
        self._boxes = {worker: box for box, worker in enumerate(job.hosted(endpoint.rank))}
        self._host(job, inner or {})
        self._answered: Array | None = None
        """The weights of an answer, where a worker's steps change them for the next one."""

    @property
    def replaceable(self) -> bool:
        """Whether others can do this rank's work."""
        return self.job.bears_losses

    def _host(self, job: Job, inner: Mapping[int, Inner]) -> None:
        """Make what it takes to compute for this rank's workers, as they begin a term.

        Args:
            inner: what they have for themselves.
        """
        self.job, self.hosted = job, {}
        for worker in job.hosted(self.endpoint.rank):
            if worker not in self._boxes:
                self._boxes[worker] = self.replica.add_box() if self._boxes else 0
            own = self._boxes[worker], self._trainings, inner.get(worker)
            self.hosted[worker] = Hosted(job, worker, *own)
        if job.keeps_inner and self._store is not None:
            store = self._store.of_term(job.term.number)
            saving = Saving(job, store, self.hosted, self.endpoint)
            self.exchange.saving = self.exchange.listening.saving = saving

    def _trainings(self, own: Hosted) -> Mapping[Pushed, Training]:
        """Return how a worker trains."""
        job, replica = self.job, self.replica
        if not job.reduces:
            compute = partial(self.computing.gradient, own)
            return make_trainings(job, replica, compute)
        # All of a rank's workers take the same steps, so one of them has what they train by.
        if self.hosted:
            return next(iter(self.hosted.values())).trainings
        compute = partial(self.computing.gradients, self.hosted)
        how = compute, self.computing.reduce, self.exchange.report_steps, self._snapshot
        hosted = job.hosted(self.endpoint.rank)
        # Whose rank hands over what all have reached.
        averages = job.config.optim.ema > 0 and job.workers[0] in hosted
        training = ReducedTraining(job, replica, *how, workers=len(hosted), averages=averages)
        return {Pushed.NOTHING: training}

    def run(self) -> None:
        """Do what rank 0 orders until it says stop.

        Raises:
            PeerLost: a server is gone.
        """
        with np.errstate(all="ignore"):  # a gradient with NaN or Inf is found and named by rank 0
            while True:
                try:
                    self._run_term()
                    return
                except TermBegins as begins:
                    self.begin(begins.term)

    def begin(self, term: Term) -> None:
        """Begin a term, in which nothing counts that is under way."""
        job = replace(self.job, term=term)
        self.exchange.begin(job)
        self._host(job, {})

    def _run_term(self) -> None:
        self.exchange.ask(tuple(self.hosted))
        spare = not self.hosted
        while self.hosted or spare:
            answer = self.exchange.await_answer()
            if answer is None:
                return
            self._obey(answer)
            spare = False
        self.exchange.report_costs()
        if self.exchange.saving is not None:
            self.exchange.saving.close()
        self.exchange.say_done()

    def _obey(self, answer: m.Answer) -> None:
        """Do what an answer orders: train, then evaluate on other weights."""
        self._count_steps(answer.orders)
        self._adopt(answer.orders)
        self._keep_aside(answer.orders)
        evaluations: list[m.Evaluate] = []
        trains: list[m.Train] = []
        for number, order in enumerate(answer.orders):
            if number:
                self._put_back()
            own = self.hosted[order.worker]
            own.answered()
            match order:
                case m.Train() if self.job.reduces:
                    trains.append(order)
                case m.Train():
                    self._train(own, order, answer.version)
                case m.Evaluate():
                    evaluations.append(order)
                case m.Stop():
                    del self.hosted[order.worker]
                    if self.exchange.saving is not None:
                        self.exchange.saving.forget(order.worker)
        if trains:
            self._train_together(trains, answer.version)
        if evaluations:
            for order in evaluations:
                self._evaluate(order)
            self.exchange.ask([order.worker for order in evaluations])

    def _adopt(self, orders: Sequence[m.Order]) -> None:
        """Make what it takes to compute for workers for which other ranks have done so."""
        for worker in (order.worker for order in orders if order.worker not in self.hosted):
            for own in self.hosted.values():
                own.crowd()
            box = self._boxes[worker] = self.replica.add_box() if self._boxes else 0
            self.hosted[worker] = Hosted(self.job, worker, box, self._trainings)

    def _count_steps(self, orders: Sequence[m.Order]) -> None:
        """Of the workers that are ordered something, what was pushed before is done."""
        for own in (self.hosted.get(order.worker) for order in orders):
            if own is None or own.pushed is None:
                continue
            _, done = own.pushed
            for clock in range(done.clock, done.clock + done.steps):
                self.replica.profile.step()
                if (clock + 1) % self.job.config.run.log_every == 0:
                    self.exchange.report_costs()

    def _keep_aside(self, orders: Sequence[m.Order]) -> None:
        """Several workers begin with what has landed: keep it, where the first would change it."""
        self._answered = None
        changed = any(kind not in KEEPS_WEIGHTS for kind in self.job.pushes)
        if len(orders) > 1 and changed:
            self._answered = self.replica.own_weights.copy()

    def _put_back(self) -> None:
        if self._answered is not None:
            self.replica.own_weights[...] = self._answered

    def leaves_it_to_another(self, error: BaseException) -> bool:
        """It holds no shard."""
        return False

    def fail(self, error: BaseException, status: int) -> None:
        """Tell rank 0 that this rank cannot go on, and give it the time to save the weights."""
        goodbye.part(self.endpoint, self.job.leader, error, status, self.exchange.move_on)

    def _train(self, own: Hosted, order: m.Train, version: int) -> None:
        """Train as ordered and push what came of it."""
        training = own.trainings[order.push]
        if self.exchange.saving is not None:
            self.exchange.saving.begin(own, order.clock)
        begin_s = self._now()
        trained, took = self.computing.timed(lambda: training.train(order, version))
        self._note_computing(begin_s, [order], trained.version)
        work = self._work(order, trained, took)
        self.exchange.push(order.push, own.worker, work, self.replica.payloads(own.box))
        own.pushed, own.clock = (training, order), order.clock + order.steps
        if isinstance(training, OverlappedTraining) and len(self.hosted) == 1:
            self.computing.ahead(lambda: training.meanwhile(order, version))

    def _train_together(self, orders: Sequence[m.Train], version: int) -> None:
        """Train all workers as ordered, with those of other ranks; hand over what came of it."""
        training = self.hosted[orders[0].worker].trainings[Pushed.NOTHING]
        begin_s = self._now()
        trained, took = self.computing.timed(lambda: training.train(orders[0], version))
        self._note_computing(begin_s, orders, trained.version)
        works = {order.worker: self._work(order, trained, took) for order in orders}
        self.exchange.hand_over(works, training.state())
        for order in orders:
            self.hosted[order.worker].pushed = training, order

    def _note_computing(self, begin_s: float, orders: Sequence[m.Train], version: int) -> None:
        of = [(order.worker, order.clock) for order in orders]
        steps = orders[0].steps
        self._timeline.note("compute", begin_s, self._now(), of, version=version, steps=steps)

    def _work(self, order: m.Train, trained: Trained, took: Took) -> Work:
        job, share = self.job, self.hosted[order.worker].share
        units = order.steps * job.units_per_gradient
        batches = range(order.batch, order.batch + order.steps)
        counted = sum(sum(counts(job, share, batch)) for batch in batches)
        return Work(
            clock=order.clock,
            version=trained.version,
            units=units,
            batch=order.batch,
            steps=order.steps,
            loss=trained.loss,
            sum_of_squares=took.squares,
            step_s=took.took_s / order.steps,
            busy_s=took.busy_s / order.steps,
            cpu_s=took.cpu_s,
            own_s=took.own_s / order.steps,
            counted=some_of(units, counted),
        )

    def _evaluate(self, order: m.Evaluate) -> None:
        """Evaluate one part of the validation split on a snapshot; report it to rank 0."""
        self.exchange.pull_snapshot(order.version)
        begin_s, total = self._now(), Measured(units=0, loss=0.0)
        for batch in self.job.task.validation(order.part, order.parts):
            self.exchange.look_up()
            total += self.replica.model.evaluate(batch)
        if order.samples:
            tell_sample(self.job, self.replica, self.exchange, order)
        # As plain numbers, whatever array they come from.
        sums = Sums(float(total.loss), int(total.correct), int(total.units))
        self._timeline.note("evaluate", begin_s, self._now(), version=order.version)
        self.exchange.report_evaluation(order, sums)
