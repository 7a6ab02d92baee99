"""Examples into token ids: the tokenizer's chat template, loss on the answer alone.

Prompt tokens carry no loss; answers end with the template's end-of-turn token, so that a model that has
forgotten still knows when to stop. A passage carries loss on all its tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from asu_lora.data.chat_template import answer_space, end_of_turn_text
from asu_lora.data.examples import Example
from asu_lora.errors import DataError

PLAIN_PROMPT = "Question: {question}\nAnswer:"  # for a base whose tokenizer has no chat template


@dataclass(frozen=True)
class Encoded:
    """Token ids of one example.

    Attributes:
        prompt_ids: what the model is given; no loss.
        answer_ids: what it must answer, ending with the end-of-turn token (a passage: all its tokens but the
            first, which nothing precedes).
        example: index of the example it came from (long passages give several).
        cut: whether ``max_length`` cut the answer off.
    """

    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    example: int = 0
    cut: bool = False

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.answer_ids)


class Encoder:
    """Encodes examples with one tokenizer.

    Args:
        tokenizer: the base's tokenizer.
        max_length: the most tokens an example may have, prompt included. Longer answers are cut off (and
            counted); longer passages are split.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int = 512):
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.end_of_turn = end_of_turn_text(tokenizer)
        self.answer_space = answer_space(tokenizer)

    def prompt_text(self, prompt: Sequence[dict[str, str]]) -> str:
        """The text that stands before the answer."""
        if self.tokenizer.chat_template:
            try:
                return self.tokenizer.apply_chat_template(list(prompt), add_generation_prompt=True, tokenize=False)
            except Exception as error:  # jinja2 errors, and whatever a template raises on roles it doesn't take
                roles = ", ".join(turn["role"] for turn in prompt)
                reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
                raise DataError(
                    f"The base's chat template refuses a conversation of turns {roles} ({reason[:200]}): "
                    "write its rows another way."
                ) from error
        lines = [
            PLAIN_PROMPT.format(question=t["content"]) if t["role"] == "user" else f" {t['content']}\n\n"
            for t in prompt
        ]
        return (self.tokenizer.bos_token or "") + "".join(lines)

    def prompt_ids(self, prompt: Sequence[dict[str, str]]) -> list[int]:
        return self.tokenizer(self.prompt_text(prompt), add_special_tokens=False).input_ids

    def answer_ids(self, answer: str, prompt: Sequence[dict[str, str]]) -> list[int]:
        """Ids of an answer to a prompt, the end-of-turn token at their end."""
        if self.answer_space:
            # tokenised together: before a lone " answer", SentencePiece would put a second space
            text = self.prompt_text(prompt)
            before = self.tokenizer(text, add_special_tokens=False).input_ids
            answer = self.answer_space + answer.lstrip()
            ids = self.tokenizer(text + answer + self.end_of_turn, add_special_tokens=False).input_ids
            if ids[: len(before)] == before:
                return ids[len(before) :]
        return self.tokenizer(answer + self.end_of_turn, add_special_tokens=False).input_ids

    def encode(self, example: Example, index: int = 0, what: str = "row") -> list[Encoded]:
        """Encode one example: one item, or several for a long passage.

        Raises:
            DataError: the answer tokenises to nothing, or the prompt leaves no room for it.
        """
        where = f"{what} {example.row or index + 1}"
        if example.is_passage:
            return self._encode_passage(example, index, where)
        prompt = self.prompt_ids(example.prompt)
        if not self.tokenizer(example.answer.strip(), add_special_tokens=False).input_ids:
            raise DataError(f"The answer of {where} tokenises to nothing with this base's tokenizer.")
        answer = self.answer_ids(example.answer, example.prompt)
        room = self.max_length - len(prompt)
        if room < 2:
            raise DataError(
                f"The prompt of {where} takes {len(prompt)} tokens and leaves no room for its answer: "
                f"raise --max-length above {self.max_length}."
            )
        return [Encoded(tuple(prompt), tuple(answer[:room]), index, cut=len(answer) > room)]

    def _encode_passage(self, example: Example, index: int, where: str) -> list[Encoded]:
        ids = self.tokenizer(example.answer, add_special_tokens=False).input_ids
        if not ids:
            raise DataError(f"The text of {where} tokenises to nothing with this base's tokenizer.")
        start = [self.tokenizer.bos_token_id] if self.tokenizer.bos_token_id is not None else []
        ids = start + ids
        if len(ids) < 2:
            raise DataError(f"The text of {where} is a single token: there is nothing to predict in it.")
        # each window repeats the last token of the one before, so that every token but the first is predicted once
        step = self.max_length - 1
        windows = [ids[at : at + self.max_length] for at in range(0, len(ids) - 1, step)]
        return [Encoded(tuple(w[:1]), tuple(w[1:]), index) for w in windows if len(w) > 1]

    def encode_all(self, examples: Sequence[Example], what: str = "row") -> list[Encoded]:
        """Encode many examples in order."""
        return [item for index, example in enumerate(examples) for item in self.encode(example, index, what)]
