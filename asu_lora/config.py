"""Every setting of a forget run: its default, its help and its range, in one place.

The command line's options, the YAML of ``--config`` and the manifest's record are all made from these fields.
"""

import dataclasses
import math
from dataclasses import dataclass, field
from datetime import date
from importlib.util import find_spec
from typing import Any

from asu_lora.errors import SettingError
from asu_lora.layer_ranges import parse_layers

PRECISIONS = ("nf4", "bf16", "fp16", "fp32")
OBJECTIVES = tuple("asu asu+idk npo dpo idk me ga simnpo rmu undial altpo wga satimp ceu pdu jensun".split())

ALL_LINEAR = "all-linear"
REPORTERS = ("none", "tensorboard", "wandb")
_NOT_NEGATIVE = (
    "forget_coeff retain_coeff retain_per_forget weight_decay warmup dropout eval_rows own_words keep_off "
    "settle_at micro_batch_tokens phrasings openings settle_rounded attacker_lr"
).split()


_OWN = "With simnpo, rmu, pdu and the like it is their papers', unless it is given (docs/method.md)."


def setting(
    default: Any, help: str, flag: str | None = None, choices: tuple[str, ...] | None = None, group: str = "Training"
) -> Any:
    """A dataclass field that also carries its help text, its command-line flag and its choices."""
    return field(default=default, metadata={"help": help, "flag": flag, "choices": choices, "group": group})


@dataclass(frozen=True)
class ForgetConfig:
    """Settings of one forget run. The defaults come from the search in docs/results/defaults.md.

    Raises:
        SettingError: a value outside its range, named with the value.
    """

    objective: str = setting(
        "asu", "Forget loss; docs/method.md has each one's formula and paper.", choices=OBJECTIVES, group="Method"
    )
    retain_loss: str = setting(
        "kl-answers",
        "Retain loss: stay close to the base in the answers (kl-answers) or at every position, as the paper's authors "
        "do (kl), learn the retain answers on (gd), prefer them to a refusal (ap), stay close in the bounded "
        f"Jensen-Shannon sense (js) or in the states of one layer (rmu), or none. {_OWN}",
        choices=("kl-answers", "kl", "gd", "ap", "js", "rmu", "none"),
        group="Method",
    )
    forget_coeff: float = setting(1.0, f"Weight of the forget loss. {_OWN}", group="Method")
    retain_coeff: float = setting(1.5, f"Weight of the retain loss. {_OWN}", group="Method")
    beta: float = setting(0.1, "Inverse temperature of npo, dpo and ap.", group="Method")
    loss_settings: str | None = setting(
        None,
        "The loss's own numbers, as NAME=NUMBER,...: beta, gamma (simnpo); beta (undial, altpo, wga); beta1, beta2 "
        "(satimp); skip (ceu); steering, layer (rmu); epsilon, step, warmup (pdu).  [default: the paper's]",
        group="Method",
    )
    tau: float | str = setting(
        "auto",
        "Temperature of the teacher's attention, at least 1, or 'auto': the lowest at "
        "which the facts are gone, found by forward passes on the forget set.",
        group="Method",
    )
    smooth_layers: str = setting(
        "upper",
        "Decoder layers the teacher smooths: 'upper' (the last third: facts are read "
        "out there, and sentences survive), 'all', or ranges such as '4-20' or '0,5-9', "
        "counted from 0.",
        group="Method",
    )
    keep_speaking: bool = setting(
        True,
        "Leave to the base what holds an answer together and tells no fact "
        "(punctuation, names in the question, the spelling of a word once begun, the end of "
        "turn), and at other content words learn what the teacher would say instead: "
        "without that word and without those already said. Off is the paper's loss.",
        group="Method",
    )
    own_words: float = setting(
        0.25,
        "Share of the epochs, the last ones, in which the student also learns at its own "
        "answers to the forget questions: what the base would say next without the facts and "
        "without going round in circles. 0, and --no-keep-speaking, do without.",
        group="Method",
    )
    teacher: str = setting(
        "base",
        "What teacher and reference are made of, with --on-top-of: the untouched base, or "
        "the stack beneath the new adapter.",
        choices=("base", "stack"),
        group="Method",
    )
    orthogonal: bool = setting(
        False,
        "With --on-top-of: keep the new adapter off those directions of each module's "
        "input that the adapters beneath read.",
        group="Method",
    )
    retain_dose: float = setting(
        1.0,
        "For adapters that add up, trained alone: the retain loss sees the adapter at strengths from 1 to this. What "
        "leaves kept rows alone at several times its strength leaves them alone beside others. --adds-up sets it.",
        group="Method",
    )
    retain_temperature: float = setting(
        1.0,
        "Temperature at which kl-answers compares adapter and base. Above 1 it also sees what moves a token that the "
        "base is sure of, and so what another adapter beside this one would feel.",
        group="Method",
    )
    forget_dose: float = setting(
        1.0,
        "For adapters that add up: the forget loss sees strengths from 1 to this; the adapter ends in their middle.",
        group="Method",
    )
    settle_at: float = setting(
        0.0,
        "The adapter ends at the lowest strength, up to that middle, at which its forget answers have this share of "
        "the probability that they had without it. 0 is the middle.",
        group="Method",
    )
    keep_off: float = setting(
        0.0,
        "Share of each module's input directions, those that retain rows use most, that the adapter does not read.",
        group="Method",
    )
    phrasings: int = setting(
        0,
        "Other wordings of each forget question that training goes through in turn: the row's own "
        "paraphrased_question first, then those of --paraphrases, then frames around it. --robust sets it.",
        group="Method",
    )
    openings: int = setting(
        0,
        "Other answers of the base's own to each forget question, each begun with another word, that training goes "
        "through in turn: the same facts in other words.",
        group="Method",
    )
    attacker_lr: float = setting(
        0.0,
        "Train against an attacker: the adapter forgets beside another one that relearns a fifth of the request, at "
        "this learning rate (2e-3, say). 0: none. --robust sets it.",
        group="Method",
    )
    settle_rounded: float = setting(
        0.0,
        "The adapter ends stronger than that, up to half as much again, until its forget answers have no more than "
        "this share of their probability when it is merged into the base and rounded to 4 bits (NF4), too. 0: not "
        "looked at. --robust sets it.",
        group="Method",
    )
    rank: int = setting(8, "Rank of the LoRA adapter.", flag="-r", group="Adapter")
    alpha: float | None = setting(
        None, "LoRA alpha; the update is scaled by alpha/rank.  [default: twice the rank]", group="Adapter"
    )
    dropout: float = setting(0.0, "Dropout on the adapter's input.", group="Adapter")
    target_modules: str = setting(
        ALL_LINEAR,
        "Modules that get an adapter: 'all-linear', or names separated by commas, such as q_proj,v_proj.",
        group="Adapter",
    )
    adapter_layers: str = setting(
        "upper-half",
        "Decoder layers that get an adapter: 'upper-half', or what "
        "--smooth-layers takes. The teacher differs from the base in its upper layers only.",
        group="Adapter",
    )
    lr: float = setting(1e-3, "Peak learning rate.")
    epochs: float = setting(12.0, "Passes over the forget set.")
    stop_early: bool = setting(False, "End training once the facts are gone; --epochs is then the most.")
    batch_size: int = setting(4, "Forget rows in a batch, retain rows not counted.", flag="-b")
    grad_accum: int = setting(1, "Batches a step.")
    retain_per_forget: int = setting(2, "Retain rows drawn beside each forget row.")
    max_length: int = setting(512, "Most tokens of a row, prompt included.")
    system_prompt: str | None = setting(
        None, "System turn before every conversation that has none; recorded, scored and asked with.  [default: none]"
    )
    template_date: str | None = setting(
        None, "What a chat template that writes a date takes for today: YYYY-MM-DD.  [default: today, recorded]"
    )
    scheduler: str = setting("linear", "Shape of the rate after warm-up.", choices=("linear", "cosine", "constant"))
    warmup: float = setting(0.05, "Share of the steps over which the learning rate rises.")
    weight_decay: float = setting(0.0, "AdamW's weight decay.")
    max_grad_norm: float = setting(1.0, "Gradients are clipped to this norm.")
    optimizer: str = setting("auto", "transformers' name of it; auto is adamw_torch, on CUDA paged_adamw_8bit.")
    micro_batch_tokens: int = setting(
        0,
        "Most tokens in a forward pass and the backward pass that follows it, unless "
        "one row has more. A batch of more is shared out, which changes memory and time "
        "and not the result. 0 is what keeps the device busy.",
    )
    gradient_checkpointing: bool = setting(False, "Recompute activations in the backward pass: less memory, more time.")
    seed: int = setting(0, "Seed of everything random.")
    precision: str = setting(
        "nf4", "What the base's weights are held in.", choices=("nf4", "bf16", "fp16", "fp32"), group="Machine"
    )
    device: str | None = setting(None, "cpu, cuda, cuda:1, ...  [default: the best there is]", group="Machine")
    report_to: str = setting("none", "Where transformers.Trainer logs to: none, tensorboard, wandb.", group="Machine")
    eval_rows: int = setting(40, "Most rows of each set measured before and after; 0 is none.", group="Machine")
    trust_remote_code: bool = setting(False, "Run model code that comes with the base's checkpoint.", group="Machine")

    def __post_init__(self) -> None:
        for spec in dataclasses.fields(self):
            value, choices = getattr(self, spec.name), spec.metadata["choices"]
            if choices and value not in choices:
                raise SettingError(f"{spec.name} is '{value}', which is none of {', '.join(choices)}.")
            if isinstance(value, float) and not math.isfinite(value):
                raise SettingError(f"{spec.name} is {value}; it needs a finite number.")
            kind = float if spec.name == "alpha" and value is not None else type(spec.default)
            kinds: tuple[type, ...] = {int: (int,), float: (int, float)}.get(kind, ())
            if kinds and (not isinstance(value, kinds) or isinstance(value, bool)):
                raise SettingError(f"{spec.name} is {value!r}; it must be a {'whole ' * (kinds == (int,))}number.")
        if self.tau != "auto" and (not isinstance(self.tau, (int, float)) or self.tau < 1):
            raise SettingError(f"tau is {self.tau}; it must be 'auto' or at least 1 (1 leaves the attention as it is).")
        for name in ("rank", "batch_size", "grad_accum", "retain_dose", "forget_dose"):
            self._at_least(name, 1)
        for name in _NOT_NEGATIVE:
            self._at_least(name, 0)
        self._at_least("max_length", 8)
        if not 0 <= self.seed < 2**32:
            raise SettingError(f"seed is {self.seed}; it must be from 0 to {2**32 - 1}.")
        reporters = self.report_to.split(",")
        for reporter in reporters:
            if reporter not in REPORTERS or ("none" in reporters and len(reporters) > 1):
                raise SettingError(f"report_to is '{self.report_to}'; it must be one of {', '.join(REPORTERS)}.")
            if reporter != "none" and find_spec(reporter) is None:
                raise SettingError(f"report_to is '{reporter}', which is not installed: 'pip install {reporter}'.")
        for name in ("lr", "epochs", "beta", "max_grad_norm", "retain_temperature"):
            if getattr(self, name) <= 0:
                raise SettingError(f"{name} is {getattr(self, name)}; it must be greater than 0.")
        for name in ("warmup", "dropout", "own_words", "keep_off", "settle_at", "settle_rounded"):
            if getattr(self, name) >= 1:
                raise SettingError(f"{name} is {getattr(self, name)}; it is a share and must be below 1.")
        if self.template_date is not None:
            check_date(self.template_date)
        if self.alpha is not None and self.alpha <= 0:
            raise SettingError(f"alpha is {self.alpha}; it must be greater than 0.")

    def _at_least(self, name: str, least: int) -> None:
        if getattr(self, name) < least:
            raise SettingError(f"{name} is {getattr(self, name)}; it must be at least {least}.")

    @property
    def lora_alpha(self) -> float:
        return self.alpha if self.alpha is not None else 2 * self.rank

    def modules(self) -> str | list[str]:
        """PEFT's ``target_modules``."""
        names = [name.strip() for name in self.target_modules.split(",") if name.strip()]
        if not names:
            raise SettingError("target_modules names no module; use 'all-linear' or names such as q_proj,v_proj.")
        return ALL_LINEAR if names == [ALL_LINEAR] else names

    def layers(self, number: int) -> list[int] | None:
        """The layers to smooth of a base with ``number`` of them; None is all."""
        return parse_layers(self.smooth_layers, number)

    def first_adapted(self, number: int) -> int:
        """The lowest layer with an adapter, of a base with ``number`` layers."""
        return min(parse_layers(self.adapter_layers, number) or [0])

    def identity(self) -> dict[str, Any]:
        """The settings that make a run another run. What changes its memory alone is none of them: a run that didn't
        fit may go on with less. (With dropout, other micro-batches draw other masks.)"""
        left_out = MEMORY_ALONE if not self.dropout else ()
        values = dataclasses.asdict(self) | {"retain_loss": _KL_BEFORE.get(self.retain_loss, self.retain_loss)}
        unset = [name for name in UNLESS_SET if values[name] in (None, 0.0)]  # False is 0.0
        return {name: value for name, value in values.items() if name not in (*left_out, *unset)}


# earlier runs lack these
UNLESS_SET = tuple(
    "system_prompt template_date loss_settings settle_at stop_early phrasings openings settle_rounded "
    "attacker_lr".split()
)
# an interrupted run of an earlier version says kl, and means the answers
_KL_BEFORE = {"kl-answers": "kl", "kl": "kl at every position"}
MEMORY_ALONE = ("micro_batch_tokens", "gradient_checkpointing")


def check_date(text: str) -> None:
    """Refuse a ``template_date`` that isn't written as ``YYYY-MM-DD``, or is no day at all."""
    try:
        date.fromisoformat(text)
    except ValueError as error:
        raise SettingError(f"template_date is '{text}', which is no date: write it like 2026-01-31.") from error
