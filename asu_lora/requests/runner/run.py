"""A run over the queue, from top to bottom: finish what was cut off, work on what is due, do what follows."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from asu_lora.errors import SettingError
from asu_lora.progress import Progress
from asu_lora.requests.engines import ENGINES, local
from asu_lora.requests.ledger.claims import at_work
from asu_lora.requests.ledger.states import FAILED, TEXT_DESTROYED, TRAINED
from asu_lora.requests.runner.audit_files import check_audit_files
from asu_lora.requests.runner.combining import finish_combining
from asu_lora.requests.runner.follow_up import FollowUp, destroy_audited, follow_up
from asu_lora.requests.runner.one_request import Outcome
from asu_lora.requests.runner.refused import finish_refusals
from asu_lora.requests.runner.workshop import Workshop
from asu_lora.requests.withdrawal import finish_withdrawals


@dataclass(frozen=True)
class Engine:
    """Where the requests are trained.

    Attributes:
        name: of :data:`~asu_lora.requests.engines.ENGINES`.
        address: of a Ray cluster, ``auto`` for the one this machine belongs to; None starts one here.
        workers: processes; None is what the machines can hold.
        at_once: requests that a process trains together; ``local`` alone.
    """

    name: str = "local"
    address: str | None = None
    workers: int | None = None
    at_once: int = 1

    def __post_init__(self) -> None:
        if self.name not in ENGINES:
            raise SettingError(f"The engine '{self.name}' is none of {', '.join(ENGINES)}.")
        if self.workers is not None and self.workers < 1:
            raise SettingError(f"workers is {self.workers}; it must be at least 1.")
        if self.at_once < 1:
            raise SettingError(f"at_once is {self.at_once}; it must be at least 1.")
        if self.name != "local" and self.at_once > 1:
            raise SettingError("--at-once belongs to --engine local: Ray gives each worker one request at a time.")
        if self.name == "local" and (self.address or self.workers):
            raise SettingError("--address and --workers belong to --engine ray; for local, start several runs.")


@dataclass
class RunReport:
    """What a run did, and what it left.

    Attributes:
        outcomes: of the requests that were worked on, in the order in which they ended.
        withdrawn: requests whose withdrawal had been cut off and was finished.
        texts_gone: requests whose texts were destroyed, those of earlier runs among them.
        texts_kept: audited requests that keep theirs, since their last audit does not pass this run's limit.
        not_scrubbed: whether destroyed texts still lie in the database, since another program reads it.
        at_work: requests that other runners have, and who.
        unaudited: trained requests that wait for an audit.
        failed_before: requests that failed in an earlier run and wait for a person.
        overdue: requests whose day has passed, and that are neither served nor withdrawn.
        without_adapter: requests whose adapter is neither in the store nor at the address, and that nobody withdrew.
        never_audited: trained requests that can't be audited, since their texts are destroyed.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    withdrawn: list[str] = field(default_factory=list)
    texts_gone: list[str] = field(default_factory=list)
    texts_kept: list[str] = field(default_factory=list)
    not_scrubbed: bool = False
    at_work: dict[str, str] = field(default_factory=dict)
    unaudited: list[str] = field(default_factory=list)
    never_audited: list[str] = field(default_factory=list)
    failed_before: list[str] = field(default_factory=list)
    overdue: list[str] = field(default_factory=list)
    without_adapter: list[str] = field(default_factory=list)
    follow_up: FollowUp = field(default_factory=FollowUp)
    seconds: float = 0.0

    def of(self, state: str) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.state == state]

    @property
    def refused(self) -> bool:
        """Whether audits brought too much back, and nothing else went wrong."""
        over = self.follow_up.over or any(outcome.refused for outcome in self.outcomes)
        return (
            bool(over)
            and all(outcome.refused for outcome in self.failed)
            and not (self.not_audited or self.not_scrubbed)
        )

    @property
    def not_audited(self) -> list[str]:
        """Requests whose audit, a first or a second one, was to be made and could not be."""
        first = [outcome.request for outcome in self.outcomes if outcome.audit_failed]
        return [*first, *self.follow_up.audit_failed]

    @property
    def failed(self) -> list[Outcome]:
        return self.of(FAILED)


class Listener:
    """Who hears of a run: nobody, by default; the command shows it."""

    def progress(self) -> Progress:
        """Of what is being trained at the moment."""
        return Progress()

    def ended(self, outcome: Outcome) -> None:
        """A request has ended."""

    def step(self, text: str) -> None:
        """Something else is being done."""


def run(shop: Workshop, engine: Engine | None = None, listener: Listener | None = None) -> RunReport:
    """Work through the queue.

    Raises:
        AsuLoraError: the run can't go on; what was done is written down, and the next run goes on from there.
    """
    engine, listener = engine or Engine(), listener or Listener()
    report, started = RunReport(), time.monotonic()
    check_audit_files(shop)
    report.withdrawn = finish_withdrawals(shop.ledger, shop.store, shop.results)
    finish_refusals(shop)
    finish_combining(shop)

    def tell(outcome: Outcome) -> None:
        report.outcomes.append(outcome)
        listener.ended(outcome)

    progress = listener.progress()
    try:
        _work(shop, engine, progress, tell, listener.step)
        report.follow_up = follow_up(shop, progress, listener.step)
    finally:
        progress.close()
    report.texts_gone = [outcome.request for outcome in report.outcomes if outcome.text_gone]
    if shop.settings.forget_text:
        gone, report.texts_kept = destroy_audited(shop)
        report.texts_gone += gone
        report.outcomes = [replace(o, text_gone=o.text_gone or o.request in gone) for o in report.outcomes]
        report.not_scrubbed = not shop.ledger.database.scrub()  # what an earlier run could not, too
    report.at_work = {name: who for name, who in at_work(shop.ledger).items() if not name.startswith("*")}
    for request in shop.ledger.requests([TRAINED]):
        (report.never_audited if request.text == TEXT_DESTROYED else report.unaudited).append(request.id)
    now = {outcome.request for outcome in report.failed}
    report.failed_before = [request.id for request in shop.ledger.requests([FAILED]) if request.id not in now]
    report.overdue = [request.id for request in shop.ledger.requests(overdue=True)]
    there = {*shop.store.names(), *(shop.results.names() if shop.results else ())}
    report.without_adapter = [request.id for request in shop.ledger.standing() if request.adapter not in there]
    report.seconds = time.monotonic() - started
    return report


def _work(
    shop: Workshop, engine: Engine, progress: Progress, tell: Callable[[Outcome], None], step: Callable[[str], None]
) -> None:
    if not shop.waiting():
        return
    if engine.name != "local" and shop.settings.launch is not None:
        raise SettingError("--launch belongs to --engine local: Ray places processes of one card each.")
    if engine.name == "local":
        if shop.settings.launch is None:
            step(f"Loading {Path(shop.settings.base).name}")
            shop.base  # noqa: B018  (a base that can't be loaded is no request's fault)
        elif engine.at_once > 1:
            raise SettingError("--at-once trains in this process, --launch in processes of its own: leave one out.")
        local.work(shop, progress, tell, step, engine.at_once)
    else:
        from asu_lora.requests.engines import ray

        ray.work(shop, engine.address, engine.workers, tell, step)
