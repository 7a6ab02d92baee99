"""The trainer piece by piece: what a step adds up, what it logs, saves and takes up again, and how it ends."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback

import asu_lora.training.trainer as trainer_module
from asu_lora.batches.collator import ON_POLICY
from asu_lora.batches.forget_retain_pairs import ForgetRetainPairs
from asu_lora.data.encoding import Encoder
from asu_lora.data.training_rows import TrainingRows
from asu_lora.errors import NotEnoughMemory, TrainingError
from asu_lora.forgetting.prepare import build_losses, training_sets
from asu_lora.losses import TrainingSet
from asu_lora.losses.loss import Loss
from asu_lora.losses.on_policy import OnPolicyKL
from asu_lora.models.loading import load_base
from asu_lora.teacher.fluency import table
from asu_lora.teacher.targets import compute_references
from asu_lora.training.arguments import training_arguments
from asu_lora.training.new_adapter import adapted
from asu_lora.training.phases import Phase
from asu_lora.training.student import Student
from asu_lora.training.trainer import (
    UnlearningTrainer,
    add_totals,
    check_finite,
    coefficients,
    collator_of,
    losses,
    train,
)
from tests.support.listener import Listener
from tests.support.tiny_run import tiny_request, tiny_settings

SIMPLE = dict(
    objective="npo", retain_loss="gd", epochs=1, optimizer="sgd", warmup=0.0, forget_coeff=0.5, retain_coeff=3.0
)


@pytest.fixture(scope="module")
def base(tiny_base):
    return load_base(str(tiny_base), "fp32", "cpu")


def sets_of(base, config, own=False):
    """Forget and retain rows with their references; with ``own`` the student's own answers beside one of them."""
    of = build_losses(config, (), base.device)
    sets = training_sets(tiny_request(4, 4), Encoder(base.tokenizer), of, [], config)
    if own:
        item = sets["forget"].rows.answers[1]
        never = {"answer": {"ruled_out": table([[[5]] * len(item.answer_ids)])}}
        sets[ON_POLICY] = TrainingSet(OnPolicyKL(), TrainingRows({"answer": [item]}, never, beside={0: 0}))
    for each in sets.values():
        compute_references(base, each)
    return sets


class Watch(TrainerCallback):
    """What is logged, the gradient of each step, and the parameters before the first."""

    def __init__(self, student):
        self.student, self.logs, self.gradients = student, [], []

    def trained(self):
        return [p for p in self.student.parameters() if p.requires_grad]

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.gradients.append(torch.cat([p.grad.flatten().clone() for p in self.trained()]))

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.logs.append(dict(logs))


@contextmanager
def moved(base, config):
    """A student away from the base, whose adapter has gradients everywhere."""
    with adapted(base.model, config) as peft:
        torch.manual_seed(1)
        for parameter in peft.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.05)
        yield peft


def run(base, folder, own=False, listener=None, **changes):
    config = tiny_settings(**SIMPLE | changes)
    with moved(base, config) as peft:
        watch = Watch(peft)
        heard = listener or Listener()
        closing = train(
            Student(peft), sets_of(base, config, own), Phase(config, 7, "Training it"), base, folder,
            progress=heard, callbacks=[watch],
        )  # fmt: skip
        after = {name: p.detach().clone() for name, p in peft.named_parameters() if p.requires_grad}
    return SimpleNamespace(watch=watch, heard=heard, closing=closing, after=after, config=config)


# ---- sums


def test_each_set_has_its_coefficient_and_own_answers_are_forget_rows():
    config = tiny_settings(forget_coeff=0.3, retain_coeff=2.0)
    assert coefficients(config) == {"forget": 0.3, "retain": 2.0, ON_POLICY: 0.3}


def test_totals_of_parts_add_up_by_set_and_view():
    one = {"forget": {"answer": {"step_rows": 2, "step_tokens": 9}, "idk": {"step_rows": 2, "step_tokens": 5}}}
    two = {
        "forget": {"answer": {"step_rows": 1, "step_tokens": 4}},
        "retain": {"answer": {"step_rows": 3, "step_tokens": 8}},
    }
    assert add_totals([one, two]) == {
        "forget": {"answer": {"step_rows": 3, "step_tokens": 13}, "idk": {"step_rows": 2, "step_tokens": 5}},
        "retain": {"answer": {"step_rows": 3, "step_tokens": 8}},
    }
    assert one["forget"]["answer"] == {"step_rows": 2, "step_tokens": 9} and add_totals([]) == {}


def test_totals_of_a_step_are_those_of_all_processes(monkeypatch):
    mine = {"forget": {"answer": {"step_rows": 2, "step_tokens": 9}}}
    other = {"forget": {"answer": {"step_rows": 1, "step_tokens": 1}}}
    sent = []
    monkeypatch.setattr(trainer_module, "gather_object", lambda parts: sent.append(parts) or [*parts, other])

    def totals(processes):
        trainer = SimpleNamespace(accelerator=SimpleNamespace(num_processes=processes))
        return UnlearningTrainer.step_totals(trainer, [mine, mine])

    assert totals(1) == {"forget": {"answer": {"step_rows": 4, "step_tokens": 18}}} and sent == []
    assert totals(2) == {"forget": {"answer": {"step_rows": 5, "step_tokens": 19}}} and sent == [[totals(1)]]


def test_processes_share_logged_losses_and_undo_the_mean_of_gradients():
    calls = []
    accelerator = SimpleNamespace(num_processes=2, reduce=lambda value, how: calls.append(how) or 10 * value)
    trainer = SimpleNamespace(accelerator=accelerator)
    assert UnlearningTrainer._summed(trainer, torch.tensor(2.0)) == 20 and calls == ["sum"]
    accelerator.num_processes = 1
    assert UnlearningTrainer._summed(trainer, torch.tensor(2.0)) == 2 and calls == ["sum"]


def test_weights_that_are_no_numbers_are_named():
    module = torch.nn.Linear(2, 2)
    check_finite(module)
    module.weight.requires_grad_(False)[0, 0] = torch.nan  # the base's own: not this check's to judge
    check_finite(module)
    module.bias.data[1] = torch.inf
    with pytest.raises(TrainingError) as raised:
        check_finite(module)
    assert str(raised.value) == (
        "The adapter's bias holds numbers that are not finite: lower --lr; nothing was added to the store."
    )


class Kept(Loss):
    """Keeps what it is given, and is the sum of the first view's states."""

    needs = {"answer": (), "idk": ()}

    def __init__(self, value):
        self.value, self.views = value, None

    def __call__(self, views):
        self.views = views
        return self.value * views["answer"].hidden.sum()


def test_each_view_of_a_set_has_its_own_rows_of_the_states():
    def part(at, rows, tokens, **more):
        length = len(at)
        return {
            "at": torch.tensor(at),
            "labels": torch.arange(length),
            "row": torch.zeros(length, dtype=torch.long),
            "rows": rows,
            "references": {"base": torch.full((length, 1), 3.0)},
            "step_rows": rows + 10,
            "step_tokens": tokens,
        } | more

    batch = {
        "sets": {
            "forget": {"answer": part([2, 0], 1, 7), "idk": part([1], 2, 8)},
            "retain": {"answer": part([3], 4, 9)},
        }
    }
    hidden, of = torch.arange(4.0)[:, None], {"forget": Kept(2.0), "retain": Kept(5.0), "other": Kept(1.0)}
    assert losses(hidden, batch, of, "head") == {"forget": 4.0, "retain": 15.0}
    answer, idk = of["forget"].views["answer"], of["forget"].views["idk"]
    assert answer.head == "head" and answer.hidden.tolist() == [[2.0], [0.0]] and idk.hidden.tolist() == [[1.0]]
    assert (
        answer.labels.tolist() == [0, 1] and answer.row.tolist() == [0, 0] and answer.references["base"].shape == (2, 1)
    )
    assert [(v.rows, v.step_rows, v.step_tokens) for v in (answer, idk)] == [(1, 11, 7), (2, 12, 8)]
    totals = {
        "forget": {"answer": {"step_rows": 50, "step_tokens": 60}, "idk": {"step_rows": 51, "step_tokens": 61}},
        "retain": {"answer": {"step_rows": 52, "step_tokens": 62}},
    }
    losses(hidden, batch, of, "head", totals)
    for name, view, expected in (
        ("forget", "answer", (1, 50, 60)),
        ("forget", "idk", (2, 51, 61)),
        ("retain", "answer", (4, 52, 62)),
    ):
        found = of[name].views[view]
        assert (found.rows, found.step_rows, found.step_tokens) == expected


def test_the_collator_is_that_of_the_settings_and_the_device(base):
    config = tiny_settings(**SIMPLE)
    sets = sets_of(base, config)
    found = collator_of(sets, config, base)
    assert found.sets == {name: each.rows for name, each in sets.items()}
    assert found.needs == {"forget": {"answer": ("base_logprob",)}, "retain": {"answer": ()}}
    assert (found.pad_id, found.most_tokens, found.packing) == (base.pad_id, 512, None)
    assert collator_of(sets, tiny_settings(**SIMPLE, micro_batch_tokens=96), base).most_tokens == 96


def test_the_collator_packs_where_that_was_tried(base, monkeypatch):
    asked = []
    monkeypatch.setattr(trainer_module, "packing_of", lambda model: asked.append(model) or "packing")
    config = tiny_settings(**SIMPLE)
    assert collator_of(sets_of(base, config), config, base).packing == "packing" and asked == [base.model]


# ---- steps


def test_a_steps_loss_is_the_weighted_sum_of_its_sets_and_nothing_is_carried_over(base, tmp_path):
    """Three steps of the last of which one has fewer rows; hardly any rate, so that every epoch is the same."""
    done = run(base, tmp_path, lr=1e-12, epochs=2, batch_size=3, retain_per_forget=2)
    logs = [log for log in done.watch.logs if "loss" in log]
    assert len(logs) == 4
    for log in logs:
        assert log["forget_loss"] > 0 and log["retain_loss"] > 0
        assert log["loss"] == pytest.approx(0.5 * log["forget_loss"] + 3.0 * log["retain_loss"], rel=1e-3)
    assert "on_policy_loss" not in logs[0]
    sums = [
        sum(log["forget_loss"] * rows for log, rows in zip(part, (3, 1), strict=True)) for part in (logs[:2], logs[2:])
    ]
    assert sums[0] == pytest.approx(sums[1], rel=1e-3)
    assert all("forget_loss" not in log for log in done.watch.logs if "loss" not in log)


def test_a_set_that_a_step_has_no_rows_of_is_logged_as_nothing(base, tmp_path):
    done = run(base, tmp_path, own=True, lr=1e-12, batch_size=1)
    logs = [log for log in done.watch.logs if "loss" in log]
    own = [log["on_policy_loss"] for log in logs]
    assert len(own) == 4 and sum(value > 0 for value in own) == 1 and sum(value == 0 for value in own) == 3
    for log in logs:
        forget = log["forget_loss"] + log["on_policy_loss"]
        assert log["loss"] == pytest.approx(0.5 * forget + 3.0 * log["retain_loss"], rel=1e-3)


def test_micro_batches_and_accumulation_are_one_step(base, tmp_path, monkeypatch):
    released, quiet = [], []
    whole = run(base, tmp_path / "whole", batch_size=4, micro_batch_tokens=10**6)
    real = UnlearningTrainer.training_step

    def watched(self, model, inputs, *rest):
        if not hasattr(self, "watched"):
            self.watched, no_sync = True, self.accelerator.no_sync
            self.accelerator.no_sync = lambda model: quiet.append(1) or no_sync(model)
        return real(self, model, inputs, *rest)

    monkeypatch.setattr(trainer_module, "release_freed_memory", lambda: released.append(1))
    monkeypatch.setattr(UnlearningTrainer, "training_step", watched)
    parts = run(base, tmp_path / "parts", batch_size=4, micro_batch_tokens=1)
    assert len(released) == len(quiet) == 7  # eight rows one by one: seven before the last
    shared = run(base, tmp_path / "shared", batch_size=2, grad_accum=2, micro_batch_tokens=1)
    assert len(whole.watch.gradients) == len(parts.watch.gradients) == len(shared.watch.gradients) == 1
    for other in (parts, shared):
        assert other.watch.logs[0]["loss"] == pytest.approx(whole.watch.logs[0]["loss"], rel=1e-4)
        assert other.watch.logs[0]["forget_loss"] == pytest.approx(whole.watch.logs[0]["forget_loss"], rel=1e-4)
        difference = other.watch.gradients[0] - whole.watch.gradients[0]
        assert difference.norm() < 1e-4 * whole.watch.gradients[0].norm()


@contextmanager
def trainer_of(base, folder):
    config = tiny_settings(**SIMPLE)
    sets = sets_of(base, config)
    with moved(base, config) as peft:
        yield (
            UnlearningTrainer(
                Student(peft).train(),
                {name: each.loss for name, each in sets.items()},
                coefficients(config),
                base.head,
                args=training_arguments(config, folder, base.device, base.compute_dtype, checkpoints=True),
                train_dataset=ForgetRetainPairs(4, 4, 1, 0),
                data_collator=collator_of(sets, config, base),
            ),
            peft,
        )


def test_a_loss_is_scaled_by_the_processes_that_share_the_step(base, tmp_path):
    with trainer_of(base, tmp_path) as (trainer, _):
        batch = trainer.data_collator([(0, [1]), (2, [3])])
        (part,) = batch["micro_batches"]
        one = trainer.compute_loss(trainer.student, part, num_items_in_batch=batch["totals"])
        kept = dict(trainer.sums)
        loss, hidden = trainer.compute_loss(trainer.student, part, True, batch["totals"])
        assert loss == one and hidden.shape[1] == 64
        assert kept.keys() == {"forget", "retain"} and not any(value.requires_grad for value in kept.values())
        assert one.item() == pytest.approx(0.5 * kept["forget"].item() + 3 * kept["retain"].item(), rel=1e-5)
        assert trainer.sums["forget"].item() == pytest.approx(2 * kept["forget"].item(), rel=1e-5)
        halved = {name: {view: {key: 2 * n for key, n in counts.items()} for view, counts in views.items()}
                  for name, views in batch["totals"].items()}  # fmt: skip
        found = trainer.compute_loss(trainer.student, part, num_items_in_batch=halved)
        assert found.item() == pytest.approx(one.item() / 2)
        plain, trainer.accelerator = trainer.accelerator, SimpleNamespace(num_processes=2)
        assert trainer.compute_loss(trainer.student, part).item() == pytest.approx(2 * one.item(), rel=1e-5)
        trainer.accelerator = plain


def test_a_trainer_never_prints_and_leaves_dividing_to_the_totals(base, tmp_path):
    with trainer_of(base, tmp_path) as (trainer, _):
        assert trainer.loss_is_scaled_for_ga is True and trainer.counted == 0 and trainer.sums == {}
        assert not any(isinstance(callback, PrinterCallback) for callback in trainer.callback_handler.callbacks)
        assert trainer.head is base.head and trainer.student is trainer.model
        pairs = [trainer.data_collator([(0, [1])]), trainer.data_collator([(1, [2]), (2, [3])])]
        batches, totals = trainer.get_batch_samples(iter(pairs), 2, torch.device("cpu"))
        assert batches == pairs and totals["forget"]["answer"]["step_rows"] == 3 and trainer.counted == 1


def test_logs_are_means_over_the_steps_since_the_last(base, tmp_path):
    with trainer_of(base, tmp_path) as (trainer, _):
        trainer.sums, trainer.counted, logs = {"forget": torch.tensor(6.0)}, 4, {"loss": 1.0}
        trainer.log(logs)
        assert logs["forget_loss"] == 1.5 and logs["retain_loss"] == 0.0
        assert trainer.sums == {} and trainer.counted == 0
        for logs in ({"loss": 1.0}, {"train_runtime": 1.0}):
            trainer.counted = 0 if "loss" in logs else 3
            trainer.log(logs)
            assert "forget_loss" not in logs
        assert trainer.counted == 3
        trainer.log({"loss": 2.0}, 17.0)  # Trainer gives the time a step began beside it


# ---- checkpoints


def test_a_checkpoint_holds_the_adapter_alone_and_gives_it_back(base, tmp_path, monkeypatch):
    with trainer_of(base, tmp_path / "run") as (trainer, peft):
        trainer._save(str(tmp_path / "deep" / "down"))
        trainer._save(str(tmp_path / "deep" / "down"))  # Trainer writes into a folder that is there already
        trainer._save()
        kept = load_file(tmp_path / "deep" / "down" / "adapter_model.safetensors")
        assert kept and all("lora_" in name for name in kept)
        assert (tmp_path / "run" / "adapter_model.safetensors").is_file()
        assert not (tmp_path / "deep" / "down" / "model.safetensors").exists()
        before = {name: p.detach().clone() for name, p in peft.named_parameters() if p.requires_grad}
        for parameter in peft.parameters():
            if parameter.requires_grad:
                parameter.data.zero_()
        trainer._load_from_checkpoint(str(tmp_path / "deep" / "down"))
        after = {name: p for name, p in peft.named_parameters() if p.requires_grad}
        assert all(torch.equal(before[name], after[name]) for name in before)
        monkeypatch.setattr(type(trainer.args), "should_save", False)  # of another process than the first
        trainer._save(str(tmp_path / "other"))
        assert (tmp_path / "other").is_dir() and not list((tmp_path / "other").iterdir())


def test_saving_asks_for_no_embeddings_and_no_other_adapter(base, tmp_path, monkeypatch):
    with trainer_of(base, tmp_path) as (trainer, peft):
        given = []
        monkeypatch.setattr(peft, "save_pretrained", lambda *args, **named: given.append((args, named)))
        trainer._save(str(tmp_path / "out"))
    assert given == [((str(tmp_path / "out"),), {"save_embedding_layers": False, "selected_adapters": ["default"]})]


def test_a_run_tells_its_steps_and_closes_with_its_figures(base, tmp_path):
    done = run(base, tmp_path, batch_size=2)
    assert done.closing["steps"] == 2 and done.closing["train_seconds"] > 0
    logs = [log["loss"] for log in done.watch.logs if "loss" in log]
    assert done.closing["train_loss"] == pytest.approx(sum(logs) / 2)
    assert done.heard.stages == ["Training it"] and done.heard.steps == 2
    assert [figures["loss"] for figures in done.heard.figures] == logs
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2"]


def test_retain_rows_are_dealt_by_the_phase_and_the_settings(base, tmp_path, monkeypatch):
    given = []

    class Pairs(ForgetRetainPairs):
        def __init__(self, *args):
            given.append(args)
            super().__init__(*args)

        def set_epoch(self, epoch):
            given.append(epoch)
            super().set_epoch(epoch)

    monkeypatch.setattr(trainer_module, "ForgetRetainPairs", Pairs)
    run(base, tmp_path / "a", batch_size=4, epochs=2, retain_per_forget=2, retain_dose=1.5)
    assert given[0] == (4, 4, 2, 7, 1.5) and {0, 1} <= set(given[1:])
    given.clear()
    run(base, tmp_path / "b", batch_size=4, retain_loss="none")
    assert given[0][:2] == (4, 0)


def test_an_interrupted_run_goes_on_and_a_finished_one_trains_no_more(base, tmp_path):
    whole = run(base, tmp_path / "whole", epochs=2, batch_size=4)
    with pytest.raises(KeyboardInterrupt):
        run(base, tmp_path / "broken", epochs=2, batch_size=4, listener=Listener(stop_at=2))
    config = tiny_settings(**SIMPLE | dict(epochs=2, batch_size=4))

    def again(resume):
        with moved(base, config) as peft:
            heard = Listener()
            closing = train(
                Student(peft), sets_of(base, config), Phase(config, 7), base, tmp_path / "broken",
                progress=heard, resume=resume,
            )  # fmt: skip
            return closing, heard, {n: p.detach().clone() for n, p in peft.named_parameters() if p.requires_grad}

    resumed, heard, after = again(True)
    assert len(heard.figures) == 1 and resumed["steps"] == 2
    assert all(torch.equal(after[name], whole.after[name]) for name in after)
    assert resumed["train_loss"] == pytest.approx(whole.closing["train_loss"])
    finished, heard, kept = again(True)
    assert heard.figures == [] and heard.stages == [] and finished["train_seconds"] == 0.0
    assert finished["steps"] == 2 and finished["train_loss"] == pytest.approx(whole.closing["train_loss"])
    assert all(torch.equal(kept[name], whole.after[name]) for name in kept)
    _, heard, _ = again(False)
    assert len(heard.figures) == 2


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (MemoryError(), NotEnoughMemory),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), NotEnoughMemory),
        (RuntimeError("another"), RuntimeError),
        (ValueError("out of memory"), ValueError),
    ],
)
def test_want_of_memory_is_one_sentence_and_other_errors_are_themselves(base, tmp_path, monkeypatch, error, raised):
    def fail(*args, **named):
        raise error

    monkeypatch.setattr(trainer_module, "losses", fail)
    with pytest.raises(raised) as found:
        run(base, tmp_path)
    if raised is NotEnoughMemory:
        assert found.value.__cause__ is error and str(found.value) == (
            "There is not enough memory for a training step: lower --micro-batch-tokens or add --gradient-checkpointing."
        )
    else:
        assert found.value is error


def test_the_layers_below_the_adapter_are_replaced_while_it_trains(base, tmp_path, monkeypatch):
    inside, real = [], trainer_module.losses

    @contextmanager
    def replayed(self):
        inside.append("in")
        yield
        inside.append("out")

    monkeypatch.setattr(Student, "replayed", replayed)
    monkeypatch.setattr(trainer_module, "losses", lambda *args: inside.append("loss") or real(*args))
    run(base, tmp_path, batch_size=4, micro_batch_tokens=10**6)
    assert inside == ["in", "loss", "out"]


def test_trainers_arguments_are_those_of_the_phase_and_the_base(base, tmp_path, monkeypatch):
    given, real = [], trainer_module.training_arguments

    def made(*args, **named):
        given.append((*args, named))
        return real(*args, **named)

    monkeypatch.setattr(trainer_module, "training_arguments", made)
    done = run(base, tmp_path, batch_size=4)
    assert given == [(done.config, tmp_path, base.device, torch.float32, {"checkpoints": True})]
