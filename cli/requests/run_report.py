"""What ``asu-lora requests run`` says while it works and at its end."""

from collections.abc import Callable, Collection
from dataclasses import asdict
from typing import Any

import click

from asu_lora.cli.progress import Bars
from asu_lora.requests.intake import masked
from asu_lora.requests.runner.one_request import Outcome
from asu_lora.requests.runner.run import Listener, RunReport
from asu_lora.requests.runner.workshop import Workshop


class Stages(Bars):
    """Bars of what is done for a request; lines where stderr is no terminal, as in a log of systemd or cron.

    A stage that several requests enter together (``--at-once``) is one line.
    """

    def stage(self, name: str, total: int | None = None) -> None:
        if self.console.is_terminal or name != self.name or self.done:
            super().stage(name, total)
        elif total:
            self.total = (self.total or 0) + total

    def __init__(self, names: Callable[[], Collection[str]] = tuple):
        """Args:
        names: what a note may call by its name.
        """
        super().__init__()
        self.names = names

    def note(self, text: str) -> None:
        super().note(masked(text, self.names()))  # a log is kept, and no word of a request belongs into it


class Telling(Listener):
    """A line a request on stderr, and what is being done for it."""

    def __init__(self, waiting: int, names: Callable[[], Collection[str]] = tuple):
        self.waiting, self.count, self.names = waiting, 0, names

    def progress(self) -> Stages:
        return Stages(self.names)

    def ended(self, outcome: Outcome) -> None:
        self.count += 1
        how = outcome.state if outcome.trained or outcome.state in ("failed", "busy") else f"{outcome.state} (found)"
        why = f": {outcome.sentence}" if outcome.sentence else ""
        number = f"{self.count}/{max(self.waiting, self.count)}"
        click.echo(f"{number} {outcome.request} {how}{_seconds(outcome)}{_found(outcome)}{why}", err=True)

    def step(self, text: str) -> None:
        click.echo(f"{text} ...", err=True)


def as_dict(report: RunReport) -> dict[str, Any]:
    """What ``--json`` prints."""
    return asdict(report)


def tell(report: RunReport, shop: Workshop) -> None:
    """What was done, and plainly what was not."""
    trained = sum(outcome.trained for outcome in report.outcomes)
    click.echo(
        f"{trained} trained, {len(report.of('audited'))} audited, {len(report.failed)} failed, "
        f"in {report.seconds:.0f} s."
    )
    for outcome in report.failed:
        click.echo(f"  {outcome.request} failed: {outcome.sentence}")
    if any("requests retry" not in str(outcome.sentence) for outcome in report.failed):
        click.echo("Once what is wrong is mended: 'asu-lora requests retry TICKET' queues one again.")
    after = report.follow_up
    if report.withdrawn:
        click.echo(f"Withdrawals that had been cut off, now finished: {', '.join(report.withdrawn)}.")
    for name, sentence in after.over.items():
        click.echo(f"  {name}, audited again under all adapters: {sentence}")
    for name, sentence in after.unjudged.items():
        click.echo(f"  {name}, audited again under all adapters: {sentence}")
    if after.re_audited:
        click.echo(f"Audited again, under all adapters: {_some(after.re_audited)}.")
    if after.published:
        click.echo(f"Published, as they were not yet: {_some(after.published)}.")
    for name, count in after.combined.items():
        click.echo(f"{name} holds the adapters of {count} requests: serve it, then 'asu-lora requests deploy {name}'.")
    if after.ungrouped:
        click.echo(f"In no combined adapter yet, so serve their own beside it: {_some(after.ungrouped)}.")
    if after.stale:
        click.echo(f"These hold a withdrawn request; serve them no longer: {', '.join(after.stale)}.")
    if certified := sum(outcome.certificate is not None for outcome in report.outcomes):
        many = "s" * (certified != 1)
        click.echo(f"{certified} certificate{many} issued: certificate.html beside each adapter.")
    if after.ended:
        click.echo(
            f"Their certificates hold no longer, as a later audit is not passed: {_some(after.ended)}. They were taken "
            "out of the adapters' folders; recall the copies that you handed on."
        )
    if after.certified:
        click.echo(f"Certified anew, with what they did to earlier requests: {_some(after.certified)}.")
    if report.texts_gone:
        click.echo(f"{len(report.texts_gone)} texts destroyed; their commitments are left.")
    _not_done(report, shop)


def _not_done(report: RunReport, shop: Workshop) -> None:
    if report.not_scrubbed:
        click.echo(
            f"Another program reads the ledger {shop.ledger.database.shown}, and destroyed texts still lie in its "
            "write-ahead log: end that program (a backup, perhaps); the next run with --forget-text takes them out."
        )
    if report.texts_kept:
        click.echo(
            f"Texts kept: {_some(report.texts_kept)}; their last audits could not tell, or do not pass --fail-over "
            f"{shop.settings.limit:g}. 'asu-lora requests forget-text TICKET' destroys one by hand."
        )
    if report.unaudited:
        why = "their audit did not succeed" if shop.audit else "audits are off (--no-audit)"
        kept = "; their texts are kept until they are" if shop.settings.forget_text else ""
        click.echo(f"Not audited: {_some(report.unaudited)}; {why}{kept}.")
    if report.never_audited:
        click.echo(f"Never audited: {_some(report.never_audited)}; their texts are destroyed.")
    if report.without_adapter:
        click.echo(
            f"Their adapters are not in the store{f' nor at {shop.results.address}' if shop.results else ''}: "
            f"{_some(report.without_adapter)}; put them back, or 'asu-lora "
            "requests withdraw TICKET' takes one back."
        )
    for why in dict.fromkeys(report.follow_up.not_re_audited.values()):
        names = [name for name, told in report.follow_up.not_re_audited.items() if told == why]
        click.echo(f"Not audited again: {_some(names)}; {why.rstrip('.')}.")
    for name, sentence in report.follow_up.not_certified.items():
        click.echo(f"Not certified anew: {name}; {sentence}")
    if report.failed_before:
        click.echo(
            f"Failed in earlier runs, and nobody has queued them again: {_some(report.failed_before)}; 'asu-lora "
            "requests list --state failed' says why."
        )
    if report.overdue:
        click.echo(f"OVERDUE: {_some(report.overdue)}.")
    if report.at_work:
        click.echo(f"Other runs are at work on {_some(list(report.at_work))}.")


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _found(outcome: Outcome) -> str:
    """What its audit found, where it could tell."""
    told = [f"at most {outcome.worst:.0%} came back"] if outcome.worst is not None else []
    told += [f"{outcome.kept:.0%} of the rest is kept"] if outcome.kept is not None else []
    return f", {', '.join(told)}" if told else ""


def _seconds(outcome: Outcome) -> str:
    return f" in {outcome.seconds:.1f} s" if outcome.seconds else ""
