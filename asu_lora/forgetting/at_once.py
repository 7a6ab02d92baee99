"""Several small requests at once, on one base: the adapters that they would make one after the other.

What they have in common is done once: the base's answers to the same kept questions, the targets of the same kept
rows, the directions that these use. Answers of all are written in the same batches, and training steps share their
passes, each row with its own request's adapter (:mod:`asu_lora.training.per_row`). Each training is still a Trainer's
run of its own, with its own checkpoints: one that is cut off is gone on with, alone or in other company.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from peft import set_peft_model_state_dict
from transformers import set_seed

from asu_lora.adapters.store import AdapterStore
from asu_lora.adding_up import default_settings
from asu_lora.batches.token_budget import tokens_of_training
from asu_lora.config import ForgetConfig
from asu_lora.data.encoding import Encoder
from asu_lora.data.request import ForgetRequest
from asu_lora.data.row_format import RowFormat
from asu_lora.errors import AsuLoraError, SettingError
from asu_lora.evaluation.set_scores import Asked, scores_together
from asu_lora.forgetting.members import Member, Members
from asu_lora.forgetting.own_inputs import ready_for_sums
from asu_lora.forgetting.prepare import prepare
from asu_lora.forgetting.result import ForgetResult
from asu_lora.forgetting.retain_rows import settle_retain
from asu_lora.forgetting.run import open_run
from asu_lora.forgetting.targets import add_targets, choose_teacher
from asu_lora.forgetting.training import keep_off, own_answers, train_student
from asu_lora.hardware.random_numbers import random_numbers_kept
from asu_lora.losses import losses_of
from asu_lora.models.generation import generate_answers
from asu_lora.models.loading import LoadedBase
from asu_lora.models.unpacked_weights import unpacked
from asu_lora.progress import Progress
from asu_lora.teacher.kept_states import KeptStates
from asu_lora.training.meeting import Meeting
from asu_lora.training.new_adapter import adapted
from asu_lora.training.on_policy import OwnQuestions, rows_to_mend
from asu_lora.training.per_row import LooseAdapter, RowAdapters
from asu_lora.training.phases import Phase, phases
from asu_lora.training.shared_passes import SharedPasses, SharedStudent
from asu_lora.training.trainer import layer_of

MOST_PASSES = 4  # times the tokens that a pass of one training has: more is no faster, and takes memory


def forget_at_once(
    requests: Mapping[str, ForgetRequest],
    base: LoadedBase,
    config: ForgetConfig | None = None,
    *,
    store: str | Path | AdapterStore = "adapters",
    resume: Collection[str] = (),
    progress: Mapping[str, Progress] | None = None,
    kept: KeptStates | None = None,
) -> dict[str, ForgetResult | AsuLoraError]:
    """Train an adapter for each request, all at once, and put them into the store.

    Args:
        requests: by the name of the adapter.
        config: of all of them.
        resume: names whose interrupted run is gone on with.
        progress: by name; hears what is being done for each.
        kept: what runs read of one loaded base.

    Returns:
        For each request its result, or the error that ended it alone.

    Raises:
        SettingError: these settings don't go with several requests at once.
    """
    config, members = config or default_settings(alone=True), Members()
    refuse(config, base)
    kept = kept or KeptStates(retain_alone=True)
    with random_numbers_kept(), ExitStack() as everything:
        for name, request in requests.items():
            heard = (progress or {}).get(name)
            given: dict[str, Any] = dict(name=name, store=store, resume=name in resume, progress=heard, kept=kept)
            own = ExitStack()
            everything.push(own)
            try:
                run = own.enter_context(open_run(request, base, config, **given))
                members.going[name] = Member(name, own, run)
            except AsuLoraError as error:
                members.ended[name] = error
        members.each(encode)
        measure_before(members, base)
        members.each(partial(set_targets, members))
        members.each(take_up)
        if members.going:
            train_all(members, base)
        members.each(partial(publish, members, len(requests)))
    return {name: members.ended[name] for name in requests}


def refuse(config: ForgetConfig, base: LoadedBase) -> None:
    """Refuse what would make other adapters at once than one after the other.

    Raises:
        SettingError: naming the setting.
    """
    for given, what in (
        (config.dropout, "--dropout: its masks would be others"),
        (config.gradient_checkpointing, "--gradient-checkpointing"),
        (config.orthogonal, "--orthogonal: nothing lies beneath"),
        (config.attacker_lr, "an attacker for each, which --robust sets (--attacker-lr 0 does without)"),
        (base.compute_dtype == torch.float16, "fp16, whose losses are scaled by what overflowed"),
        (PartialState().num_processes > 1, "several processes"),
    ):
        if given:
            raise SettingError(f"Requests are not trained at once with {what}; leave that out, or --at-once.")


def encode(member: Member) -> None:
    """The rows, chosen from a pool where it has one, each with its loss."""
    settle_retain(member.run)
    member.sets = prepare(member.run)


def measure_before(members: Members, base: LoadedBase) -> None:
    """The base's scores on all questions; a question that several ask is answered once."""
    members.each(lambda member: member.run.progress.stage("Answers of all, before"))
    going = list(members.going.values())
    asked = {
        (member.name, name): Asked(encoder_of(member, going), examples)
        for member in going
        for name, examples in member.run.questions().items()
        if examples
    }
    found = scores_together(base.model, base.head, base.tokenizer, asked)
    for member in going:
        member.before = {name: scores for (whose, name), scores in found.items() if whose == member.name}
        member.run.note_endings(member.before)


def encoder_of(member: Member, going: Sequence[Member]) -> Encoder:
    """The first encoder that writes rows as the member's does: sets that are written alike are measured once."""
    mine = RowFormat.of(member.run.config)
    return next(each.run.encoder for each in going if RowFormat.of(each.run.config) == mine)


def set_targets(members: Members, member: Member) -> None:
    """What the losses compare with; where an earlier member keeps the same rows, those are taken as they are."""
    run, sets = member.run, dict(member.sets)
    if "retain" in sets:
        for other in members.going.values():
            if other is member:
                break
            if other.sets["retain"].rows.views == sets["retain"].rows.views:
                sets.pop("retain").rows = other.sets["retain"].rows
                break
    with run.teaching():
        add_targets(run, sets, choose_teacher(run, sets["forget"]))


def take_up(member: Member) -> None:
    """Hold name and folder, and make the adapter that the request would begin with alone."""
    run = member.run
    member.open.enter_context(run.at_work())
    set_seed(run.config.seed)
    with adapted(run.model, run.config, run.beneath) as student:
        run.record.count_parameters(student)
        keep_off(run, student, member.sets)
        member.adapter = LooseAdapter.of(student)
    member.phases = phases(run.config, member.sets)


def train_all(members: Members, base: LoadedBase) -> None:
    """Both phases of all, with their own answers between, and the scores after them."""
    order = list(members.going.values())
    acting = RowAdapters(base.model, [member.adapter for member in order])
    with unpacked(base.model), acting.in_place():  # in this order: what stands in their place hides the maps
        train_together(members, order, acting, [member.phases[0] for member in order])
        answer_together(members, order, acting, base)
        going = members.going
        train_together(members, order, acting, [second_phase(each) if each.name in going else None for each in order])
    members.each(leave_at_its_strength)
    acting = RowAdapters(base.model, [member.adapter for member in order])
    with unpacked(base.model), acting.in_place():
        measure_after(members, order, acting, base)


def second_phase(member: Member) -> Phase | None:
    """The phase with the member's own answers, where it has one: as much shorter as its first was ended early."""
    first, second = member.phases
    return second and second.shortened(member.run.record.training["steps"] / first.steps)


def train_together(
    members: Members, order: Sequence[Member], acting: RowAdapters, parts: Sequence[Phase | None]
) -> None:
    """One phase of those who have it; who fails leaves.

    Args:
        order: the members by the numbers of their adapters.
        parts: the phase of each.
    """
    jobs: dict[int, Callable[[], None]] = {}
    numbered = enumerate(zip(order, parts, strict=True))
    going = [(number, member, part) for number, (member, part) in numbered if part and member.name in members.going]
    if not going:
        return
    run, sets = going[0][1].run, going[0][1].sets
    passes = SharedPasses(acting, run.base.pad_id, run.frozen_layers, layer_of(losses_of(sets)))
    meeting: Meeting[None] = Meeting(passes.serve)
    for number, member, part in going:
        tokens = tokens_of_each(part.config, run.base.device, len(going))
        mine = replace(part, config=replace(part.config, micro_batch_tokens=tokens))
        jobs[number] = partial(
            train_student, member.run, SharedStudent(member.adapter, number, meeting), member.sets, mine
        )
    with passes.ready():
        ended = meeting.take_through(jobs)
    for number, what in ended.items():
        if isinstance(what, AsuLoraError):
            members.fail(order[number], what)


def tokens_of_each(config: ForgetConfig, device: torch.device, count: int) -> int:
    """Tokens of one training's part of a shared pass: the settings' share of them, or what keeps the device busy."""
    alone = tokens_of_training(device)
    most = config.micro_batch_tokens or MOST_PASSES * alone
    return max(1, min(alone, most // count))


def answer_together(members: Members, order: Sequence[Member], acting: RowAdapters, base: LoadedBase) -> None:
    """The students' own answers, all in the same batches, and the targets for those that loop."""
    asked = {
        number: OwnQuestions.of(member.sets["forget"].rows)
        for number, member in enumerate(order)
        if member.name in members.going and member.phases[1]
    }
    members.each(lambda member: member.run.progress.stage("The students' own answers"))
    by = [number for number, questions in asked.items() for _ in questions.prompts]
    told = iter(
        generate_answers(
            base.model,
            base.tokenizer,
            [prompt for questions in asked.values() for prompt in questions.prompts],
            rooms=[room for questions in asked.values() for room in questions.rooms],
            acting=lambda rows: acting.acting([by[row] for row in rows]),
        )
    )
    for number, questions in asked.items():
        answers, run, sets = [next(told) for _ in questions.prompts], order[number].run, order[number].sets
        sets |= own_answers(run, rows_to_mend(sets["forget"].rows, run.encoder, questions, answers))


def leave_at_its_strength(member: Member) -> None:
    """Give the trained adapter the strength that it would have alone (:mod:`asu_lora.forgetting.strength`)."""
    run = member.run
    with adapted(run.model, run.config, run.beneath) as student:
        set_peft_model_state_dict(student, dict(member.adapter.weights))
        ready_for_sums(run, student, member.sets["forget"])
        member.adapter = LooseAdapter.of(student)


def measure_after(members: Members, order: Sequence[Member], acting: RowAdapters, base: LoadedBase) -> None:
    """Each adapter's scores on its own request's questions."""
    members.each(lambda member: member.run.progress.stage("Answers of all, after"))
    asked = {
        (number, name): Asked(member.run.encoder, examples, number)
        for number, member in enumerate(order)
        if member.name in members.going
        for name, examples in member.run.questions().items()
        if examples
    }
    found = scores_together(base.model, base.head, base.tokenizer, asked, acting=acting.acting)
    for (number, name), scores in found.items():
        order[number].after[name] = scores


def publish(members: Members, count: int, member: Member) -> None:
    """The adapter into the store, by PEFT, as a run alone writes it.

    Args:
        count: how many were trained at once.
    """
    run = member.run
    run.record.training["at_once"] = count
    with adapted(run.model, run.config, run.beneath) as student:
        set_peft_model_state_dict(student, dict(member.adapter.weights))
        made = run.publish(student, member.before, member.after)
    members.ended[member.name] = made
    members.going.pop(member.name)
    member.open.close()
