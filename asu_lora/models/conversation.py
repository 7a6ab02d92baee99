"""A conversation with a base and its adapters: turns that are remembered, answers as they come, weights that change."""

from collections.abc import Callable
from dataclasses import dataclass, field

from peft import PeftModel

from asu_lora.adapters.adapter_config import refuse_weight
from asu_lora.data.encoding import Encoder
from asu_lora.data.row_format import BaseLimits
from asu_lora.errors import DataError, SettingError
from asu_lora.models.adapter_stack import Stack
from asu_lora.models.answer_ends import Endings
from asu_lora.models.streaming import streamed_answer

ANSWER_TOKENS = 256  # most of one answer


def nobody(text: str) -> None:
    """Hears nothing."""


@dataclass
class Conversation:
    """Turns so far, and who answers.

    Attributes:
        stack: the base and its adapters.
        turns: what was said, each {"role", "content"}.
        on: whether the adapters are on.
        endings: how the answers ended.
    """

    stack: Stack
    turns: list[dict[str, str]] = field(default_factory=list, repr=False)
    on: bool = True
    endings: Endings = field(default_factory=Endings)

    @property
    def encoder(self) -> Encoder:
        return self.stack.encoder()

    @property
    def adapted(self) -> bool:
        """Whether adapters change the answers."""
        return self.on and bool(self.stack.adapters)

    def say(self, text: str, hear: Callable[[str], None] = nobody) -> str:
        """Answer a turn, with all before it in mind; both are remembered once the answer is whole.

        Args:
            hear: called with each piece of the answer.

        Raises:
            DataError: the turn alone is longer than the base can read, or the chat template refuses the conversation.
        """
        turns = self._fitting([*self.turns, {"role": "user", "content": text}])
        answer = self._answer(turns, hear)
        self.turns = [*turns, {"role": "assistant", "content": answer}]
        return answer

    def base_says(self, hear: Callable[[str], None] = nobody) -> str:
        """What the base alone answers to the last question, after the same turns; it is not remembered.

        Raises:
            SettingError: nothing was asked yet.
        """
        with self.stack.without_adapters():
            return self._answer(self._asked(), hear)

    def adapters_say(self) -> str:
        """The same of the base with its adapters, whether these are on or off."""
        return self._stream(self._asked(), nobody)

    def clear(self) -> None:
        """Forget all turns."""
        self.turns = []

    def weigh(self, name: str, weight: float) -> None:
        """Give an adapter of the stack another weight; 0 takes it off.

        Raises:
            SettingError: the stack has no adapter of that name.
            AdapterError: its effect is not proportional to a weight.
        """
        names = [known for known, _ in self.stack.adapters]
        if name not in names:
            known = ", ".join(names) or "none: give them with --adapter"
            raise SettingError(f"There is no adapter '{name}' here; there is {known}.")
        index, model = names.index(name), self.stack.model
        assert isinstance(model, PeftModel)  # it has adapters
        inner = f"a{index}"
        refuse_weight(name, model.peft_config[inner].to_dict(), weight)
        for module in model.modules():
            if callable(set_scale := getattr(module, "set_scale", None)) and inner in getattr(module, "scaling", {}):
                set_scale(inner, weight)
        self.stack.adapters[index] = (name, weight)

    def _asked(self) -> list[dict[str, str]]:
        if not self.turns:
            raise SettingError("Nothing was asked yet: ask first.")
        return self.turns[:-1]

    def _answer(self, turns: list[dict[str, str]], hear: Callable[[str], None]) -> str:
        if self.on:
            return self._stream(turns, hear)
        with self.stack.without_adapters():
            return self._stream(turns, hear)

    def _stream(self, turns: list[dict[str, str]], hear: Callable[[str], None]) -> str:
        self.stack.check()
        base, prompt = self.stack.base, self.encoder.prompt_ids(turns)
        positions = BaseLimits.of(base.model.config).positions
        most = ANSWER_TOKENS if positions is None else min(ANSWER_TOKENS, positions - len(prompt))
        return streamed_answer(self.stack.model, base.tokenizer, prompt, most, hear, self.endings)

    def _fitting(self, turns: list[dict[str, str]]) -> list[dict[str, str]]:
        """The last turns that leave room for an answer: the oldest go first, a question with its answer."""
        positions = BaseLimits.of(self.stack.base.model.config).positions
        while len(turns) > 1 and positions is not None:
            try:
                if len(self.encoder.prompt_ids(turns)) + min(ANSWER_TOKENS, positions // 2) <= positions:
                    break
            except DataError:  # more than the base has positions, unless it is the template that refuses
                self.encoder.prompt_text(turns)
            turns = turns[2:]
        return turns
