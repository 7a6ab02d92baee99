"""The models of an audit, by what they stand for: candidate, ceiling (the base as it was), floor, control.

Candidate and ceiling are one set of weights where adapters are audited: on, and off.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

import torch
from peft import PeftModel

from asu_lora.audit.decoding import Pass, decode
from asu_lora.audit.rounding import AuditedWeights
from asu_lora.data.encoding import Encoder
from asu_lora.models.adapter_stack import Stack
from asu_lora.models.decoder import base_model
from asu_lora.models.generation import generate_answers
from asu_lora.models.loading import LoadedBase
from asu_lora.models.output_head import FrozenHead

Load = Callable[[], Stack]


@dataclass
class View:
    """One model as it answers. Use it inside :meth:`on`.

    Attributes:
        stack: whose weights answer.
        adapters: PEFT's names of the adapters that are on; none for a base.
        answers: what was answered before, by prompt and room.
    """

    role: str
    stack: Stack
    encoder: Encoder
    adapters: tuple[str, ...]
    answers: dict[tuple[tuple[int, ...], int], str] = field(default_factory=dict)

    @property
    def model(self) -> torch.nn.Module:
        return self.stack.model

    @property
    def base(self) -> LoadedBase:
        return self.stack.base

    def head(self) -> FrozenHead:
        return self.base.head

    @contextmanager
    def on(self) -> Iterator["View"]:
        """Inside, the model is this one."""
        if self.adapters or not isinstance(self.model, PeftModel):
            yield self
        else:
            with self.stack.without_adapters():
                yield self

    def ask(
        self, prompts: Sequence[tuple[int, ...]], room: int, progress: Callable[[int], None] | None = None
    ) -> list[str]:
        """Greedy answers of at most ``room`` tokens; what was asked before is not asked again."""
        new = list(dict.fromkeys(prompt for prompt in prompts if (prompt, room) not in self.answers))
        told = self.ask_anew(new, room, progress)
        self.answers |= {(prompt, room): text for prompt, text in zip(new, told, strict=True)}
        if progress and len(prompts) > len(new):
            progress(len(prompts) - len(new))
        return [self.answers[prompt, room] for prompt in prompts]

    def ask_anew(
        self, prompts: Sequence[tuple[int, ...]], room: int, progress: Callable[[int], None] | None = None
    ) -> list[str]:
        """The same of a model that an attack has changed: nothing is remembered."""
        tokenizer = self.encoder.tokenizer
        ids = generate_answers(self.model, tokenizer, prompts, new_tokens=room, progress=progress) if prompts else []
        return [self.text(answer) for answer in ids]

    def sample(
        self, prompts: Sequence[tuple[int, ...]], room: int, seed: int, progress: Callable[[int], None] | None = None
    ) -> list[str]:
        """One answer a prompt, drawn at temperature 1; the same seed draws the same."""
        generator = torch.Generator().manual_seed(seed)

        def draw(logits: Sequence[torch.Tensor]) -> torch.Tensor:
            return torch.multinomial(logits[0].softmax(-1).cpu(), 1, generator=generator)[:, 0]

        answers = decode([self.plain_pass()], draw, self.encoder.tokenizer, prompts, room, progress=progress)
        return [self.text(ids) for ids in answers]

    def plain_pass(self) -> Pass:
        """This model's forward pass for :func:`~asu_lora.audit.decoding.decode`."""
        return Pass(cast(torch.nn.Module, self.model), self.on)

    def text(self, ids: Sequence[int]) -> str:
        """What token ids say."""
        return str(self.encoder.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()


class Models:
    """Opens what is asked for, once.

    Args:
        candidate: what is audited.
        weights: the same as files, to be rounded.
        others: how ceiling, floor and control are loaded, where they are weights of their own. Without a ceiling
            there, it is the candidate's base with its adapters off.
    """

    def __init__(self, candidate: Stack, weights: AuditedWeights, **others: Load):
        self.candidate, self.weights, self._load = candidate, weights, others
        self._views: dict[str, View] = {}
        self.encoder = candidate.encoder()

    def has(self, role: str) -> bool:
        return role in ("candidate", "ceiling") or role in self._load

    def has_own(self, role: str) -> bool:
        """Whether a role's model has weights of its own."""
        return role in self._load

    def view(self, role: str) -> View:
        """The model of a role.

        Raises:
            AsuLoraError: as loading does.
        """
        if role not in self._views:
            stack = self.candidate if role not in self._load else self._load[role]()
            names: tuple[str, ...] = ()
            if isinstance(stack.model, PeftModel) and not (role == "ceiling" and stack is self.candidate):
                names = tuple(stack.model.peft_config)
            encoder = self.encoder if _same_words(stack, self.candidate) else stack.encoder()
            self._views[role] = View(role, stack, encoder, names)
        return self._views[role]


def _same_words(one: Stack, other: Stack) -> bool:
    """Whether two stacks write rows alike: a never-trained base may have a tokenizer of its own."""
    return bool(
        one.base.tokenizer.get_vocab() == other.base.tokenizer.get_vocab()
        and base_model(one.model).config.get_text_config().vocab_size
        == base_model(other.model).config.get_text_config().vocab_size
    )
