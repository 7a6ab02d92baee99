"""The models of an audit, by what they stand for: candidate, ceiling (the base as it was), floor, control.

Candidate and ceiling are one set of weights where adapters are audited: on, and off.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import cast

import torch
from peft import PeftModel

from asu_lora.audit.decoding import Pass, decode
from asu_lora.audit.rounding import AuditedWeights
from asu_lora.data.encoding import Encoder
from asu_lora.data.examples import Example
from asu_lora.evaluation.likelihoods import BLOCK, Likelihoods, TokenScores
from asu_lora.models.adapter_stack import Stack
from asu_lora.models.decoder import base_model
from asu_lora.models.generation import generate_answers
from asu_lora.models.loading import LoadedBase
from asu_lora.models.output_head import FrozenHead
from asu_lora.models.unpacked_weights import unpacked

Load = Callable[[], Stack]


@dataclass
class View:
    """One model as it answers. Use it inside :meth:`on`.

    Attributes:
        stack: whose weights answer.
        adapters: PEFT's names of the adapters that are on; none for a base.
        answers: what was answered before, by prompt and room.
        scored: the tokens of texts that were read before, by text.
    """

    role: str
    stack: Stack
    encoder: Encoder
    adapters: tuple[str, ...]
    answers: dict[tuple[tuple[int, ...], int], str] = field(default_factory=dict, repr=False)
    scored: dict[tuple[str, ...], TokenScores] = field(default_factory=dict, repr=False)

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
        self, prompts: Sequence[tuple[int, ...]], rooms: Sequence[int], progress: Callable[[int], None] | None = None
    ) -> list[str]:
        """Greedy answers of at most so many tokens each; what was asked before is not asked again."""
        wanted = list(zip(prompts, rooms, strict=True))
        new = [each for each in dict.fromkeys(wanted) if each not in self.answers]
        told = self.ask_anew([prompt for prompt, _ in new], [room for _, room in new], progress)
        self.answers |= dict(zip(new, told, strict=True))
        if progress and len(wanted) > len(new):
            progress(len(wanted) - len(new))
        return [self.answers[each] for each in wanted]

    def ask_anew(
        self, prompts: Sequence[tuple[int, ...]], rooms: Sequence[int], progress: Callable[[int], None] | None = None
    ) -> list[str]:
        """The same of a model that an attack has changed: nothing is remembered."""
        tokenizer = self.encoder.tokenizer
        if not prompts:
            return []
        ids = generate_answers(self.model, tokenizer, prompts, rooms=rooms, progress=progress)
        return [self.text(answer) for answer in ids]

    def scores(self, examples: Sequence[Example], progress: Callable[[int], None] | None = None) -> list[TokenScores]:
        """Every text's tokens, each after the true ones before it; a text is read once."""
        texts = {_text(example): example for example in examples}
        new = [text for text in texts if text not in self.scored]
        likelihoods = Likelihoods(self.stack, self.encoder) if new else None
        for start in range(0, len(new), BLOCK):
            block = new[start : start + BLOCK]
            assert likelihoods is not None  # there is something new
            told = likelihoods.tokens(self.encoder.encode_all([texts[text] for text in block]))
            self.scored |= dict(zip(block, told, strict=True))
        if progress:
            progress(len(examples))
        return [self.scored[_text(example)] for example in examples]

    def sample(
        self,
        prompts: Sequence[tuple[int, ...]],
        rooms: Sequence[int],
        seed: int,
        progress: Callable[[int], None] | None = None,
    ) -> list[str]:
        """One answer a prompt, drawn at temperature 1; the same seed draws the same."""
        generator = torch.Generator().manual_seed(seed)

        def draw(logits: Sequence[torch.Tensor]) -> torch.Tensor:
            return torch.multinomial(logits[0].softmax(-1).cpu(), 1, generator=generator)[:, 0]

        answers = decode([self.plain_pass()], draw, self.encoder.tokenizer, prompts, rooms, progress=progress)
        return [self.text(ids) for ids in answers]

    def plain_pass(self) -> Pass:
        """This model's forward pass for :func:`~asu_lora.audit.decoding.decode`."""
        return Pass(cast(torch.nn.Module, self.model), self.on)

    def text(self, ids: Sequence[int]) -> str:
        """What token ids say."""
        return str(self.encoder.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()


class Models:
    """Opens what is asked for, once. Used in a ``with``; after it, its bases are plain ones.

    Args:
        candidate: what is audited.
        weights: the same as files, to be rounded.
        others: how ceiling, floor and control are loaded, where they are weights of their own. Without a ceiling
            there, it is the candidate's base with its adapters off.
    """

    def __init__(self, candidate: Stack, weights: AuditedWeights, **others: Load):
        self.candidate, self.weights, self._load = candidate, weights, others
        self._views: dict[str, View] = {}
        self._open = ExitStack()
        self.encoder = candidate.encoder()

    def __enter__(self) -> "Models":
        self._open.enter_context(unpacked(self.candidate.model))
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()
        self.candidate.unload()

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
            stack = self.candidate
            if role in self._load:
                stack = self._load[role]()
                self._open.enter_context(unpacked(stack.model))
            names: tuple[str, ...] = ()
            if isinstance(stack.model, PeftModel) and not (role == "ceiling" and stack is self.candidate):
                names = tuple(stack.model.peft_config)
            encoder = self.encoder if _same_words(stack, self.candidate) else stack.encoder()
            self._views[role] = View(role, stack, encoder, names)
        return self._views[role]


def _text(example: Example) -> tuple[str, ...]:
    """What a model reads of a row."""
    return (*(f"{turn['role']}: {turn['content']}" for turn in example.prompt), example.answer)


def _same_words(one: Stack, other: Stack) -> bool:
    """Whether two stacks write rows alike: a never-trained base may have a tokenizer of its own."""
    return bool(
        one.base.tokenizer.get_vocab() == other.base.tokenizer.get_vocab()
        and base_model(one.model).config.get_text_config().vocab_size
        == base_model(other.model).config.get_text_config().vocab_size
    )
