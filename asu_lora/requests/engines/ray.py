"""Requests over a Ray cluster: a task a request, on workers that each load the base once.

Ray places the workers, restarts those that die, and carries ids and outcomes. Nothing of a text goes through it: a
worker opens ledger and vault itself, with the key that its own machine has. Who trains what is told by the ledger's
claims, so that whatever Ray loses or does twice, no request is trained twice.
"""

import gc
import logging
import os
import platform
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from asu_lora.errors import AsuLoraError, SettingError, first_line
from asu_lora.progress import Progress
from asu_lora.requests.engines.gpu_share import share_of_queue
from asu_lora.requests.ledger.claims import claim_one, record, release_of
from asu_lora.requests.ledger.database import has_password
from asu_lora.requests.ledger.states import FAILED, TRAINED
from asu_lora.requests.runner.audit_files import check_audit_files
from asu_lora.requests.runner.audit_step import audit_adapter
from asu_lora.requests.runner.one_request import Outcome, work_on
from asu_lora.requests.runner.settings import Places, RunSettings
from asu_lora.requests.runner.workshop import Workshop

DATABASE = "ASU_LORA_DATABASE"
MOST_DEATHS = 5  # of workers over one request: then it is the request that kills them
OBJECT_STORE = 100 << 20  # bytes; ids and outcomes need none, and Ray would take a third of the memory


class RequestWorker:
    """A process of the cluster that trains one request after the other."""

    def __init__(self, places: Places, settings: RunSettings, runner: str):
        from asu_lora.requests.engines.quiet_worker import quiet

        quiet()
        if places.address is None and (address := os.environ.get(DATABASE)):
            places = replace(places, address=address)
        self.shop = Workshop.open(places, settings, audit=audit_adapter, runner=runner)
        self.settled = False  # see asu_lora.requests.runner.settled_heap

    def up(self) -> bool:
        """That the process runs."""
        return True

    def work(self, request: str) -> Outcome:
        """Do what is left to do for a request; ``busy`` where somebody else has it."""
        if not self.settled:  # before the claim: what can't be loaded or read here is no request's fault
            check_audit_files(self.shop)
            self.shop.base  # noqa: B018
            gc.freeze()
            self.settled = True
        claim = claim_one(self.shop.ledger, self.shop.worker, request, self.shop.claimable)
        if claim is None:
            return Outcome(request, "busy", sentence="another runner has it, or has done it")
        return work_on(self.shop, claim, Progress())


@dataclass
class Team:
    """The workers, and what they are at.

    Attributes:
        names: of the workers, as the ledger's claims have them.
        running: by task: the request and the worker.
        starting: by the task that ends when it is up: a worker that Ray starts anew.
        deaths: how many workers died over a request.
    """

    ray: Any
    names: dict[Any, str]
    idle: list[Any]
    running: dict[Any, tuple[str, Any]] = field(default_factory=dict)
    starting: dict[Any, Any] = field(default_factory=dict)
    deaths: Counter[str] = field(default_factory=Counter)


def work(
    shop: Workshop,
    address: str | None,
    workers: int | None,
    tell: Callable[[Outcome], None],
    step: Callable[[str], None],
) -> None:
    """Work until nothing is left that nobody is at work on.

    Args:
        address: of the cluster; None starts one on this machine, for this run alone.
        workers: how many; None is as many as the cluster's CPUs, or its GPUs' shares, allow.

    Raises:
        SettingError: Ray is not installed, or its cluster can't be joined.
        AsuLoraError: nothing can go on.
    """
    ray = _ray()
    share = share_of_queue(shop)
    step("Starting Ray" if address is None else f"Joining Ray at {address}")
    with _cluster(ray, address, workers):
        seen: set[str] = set()
        count = workers or _fitting(ray, share)
        team = None
        while waiting := [r.id for r in shop.waiting() if r.id not in seen]:
            if shop.settings.most is not None:
                waiting = waiting[: shop.settings.most - len(seen)]
            if not waiting:
                return
            seen |= set(waiting)
            team = team or _team(ray, shop, min(count, len(waiting)), share)
            step(f"{len(waiting)} requests, {len(team.names)} workers")
            _work_through(shop, team, deque(waiting), tell)


def _work_through(shop: Workshop, team: Team, waiting: deque[str], tell: Callable[[Outcome], None]) -> None:
    ray = team.ray
    while waiting or team.running:
        while waiting and team.idle:
            worker, request = team.idle.pop(), waiting.popleft()
            team.running[worker.work.remote(request)] = (request, worker)
        done, _ = ray.wait([*team.running, *team.starting], num_returns=1)
        for task in done:
            if task in team.starting:
                _up_again(team, task)
                continue
            request, worker = team.running.pop(task)
            try:
                tell(ray.get(task))
                team.idle.append(worker)
            except ray.exceptions.RayActorError:  # the worker died; Ray starts another in its place
                # until that is up, Ray answers at once that nobody is there: no death of a worker
                team.starting[worker.up.options(max_task_retries=-1).remote()] = worker
                team.deaths[request] += 1
                release_of(shop.ledger, request, team.names[worker])
                if team.deaths[request] < MOST_DEATHS:
                    waiting.appendleft(request)
                else:
                    tell(_give_up(shop, request))
            except ray.exceptions.RayTaskError as error:
                cause = error.cause
                if isinstance(cause, AsuLoraError):
                    raise cause from None
                raise


def _up_again(team: Team, task: Any) -> None:
    """A worker that was started anew gets requests again; one that can't be started leaves the team."""
    worker = team.starting.pop(task)
    try:
        team.ray.get(task)
        team.idle.append(worker)
    except team.ray.exceptions.RayActorError as error:
        if not (team.idle or team.running or team.starting):
            raise SettingError(f"No worker of the Ray cluster can be started: {first_line(error)}") from error


def _give_up(shop: Workshop, request: str) -> Outcome:
    """A request over which worker after worker dies is no use to try again."""
    sentence = f"{MOST_DEATHS} workers died over it: has the machine memory for it? 'requests retry' tries it again."
    claim = claim_one(shop.ledger, shop.worker, request, shop.claimable)
    if claim is None or claim.request.state == TRAINED:
        return Outcome(request, "busy", sentence=sentence)
    record(shop.ledger, claim, FAILED, {"sentence": sentence}, release=True)
    return Outcome(request, FAILED, sentence=sentence)


def _team(ray: Any, shop: Workshop, count: int, share: float) -> Team:
    places = shop.places
    if places.address and has_password(places.address):
        places = replace(places, address=None)  # Ray writes arguments down: the workers read it from their environment
    if places.key_file is not None:
        places = replace(places, key_file=places.key_file.absolute())
    places = replace(places, store=places.store.absolute())
    # restarted as often as it takes; a task that was cut off is given out again by us, not by Ray
    remote = ray.remote(num_cpus=1, num_gpus=share, max_restarts=-1, max_task_retries=0)(RequestWorker)
    settings = replace(shop.settings, policy=shop.settings.policy.absolute())
    names = [f"{platform.node()}:{os.getpid()}/ray-{number}" for number in range(count)]
    team = {remote.remote(places, settings, name): name for name in names}
    return Team(ray, team, list(team))


def _fitting(ray: Any, share: float) -> int:
    there = ray.cluster_resources()
    if share:
        return max(int(there.get("GPU", 0)) * int(1 / share), 1)
    return max(int(there.get("CPU", 1)), 1)


@contextmanager
def _cluster(ray: Any, address: str | None, workers: int | None) -> Iterator[None]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "address": address}
    if address is None:
        options |= {"num_cpus": workers, "include_dashboard": False, "object_store_memory": OBJECT_STORE}
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise SettingError(f"The Ray cluster can't be joined: {first_line(error)}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise SettingError("--engine ray needs Ray, which is not here: pip install 'asu-lora[ray]'.") from error
    return ray
