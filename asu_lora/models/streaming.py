"""One answer as it comes: the greedy answer to one prompt, told while it is written."""

from collections.abc import Callable, Sequence

import torch
from transformers import PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList

from asu_lora.data.chat_template import ChatTemplate
from asu_lora.models.answer_ends import Endings, NextTurn, ended, stop_tokens
from asu_lora.models.decoder import base_model
from asu_lora.models.greedy import generate
from asu_lora.models.unpacked_weights import unpacked

HALF_A_CHARACTER = "\ufffd"


@torch.no_grad()
def streamed_answer(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompt: Sequence[int],
    most: int,
    hear: Callable[[str], None],
    endings: Endings | None = None,
) -> str:
    """Answer one prompt greedily; the text is that of :func:`asu_lora.models.generation.generate_answers`.

    Args:
        model: the causal LM, with whatever adapters are active.
        prompt: its token ids.
        most: tokens of the answer.
        hear: called with each new piece of the text. What may yet turn out to be the next question is held back.
        endings: counts how the answer ends.

    Returns:
        The whole answer; the pieces make up the same text, but for white space around it.

    Raises:
        BaseModelError: the architecture can't be asked, or its logits are not finite.
    """
    stops, next_turn, width = stop_tokens(model, tokenizer), ChatTemplate(tokenizer).next_turn(), len(prompt)
    endings = endings if endings is not None else Endings()
    device = base_model(model).device
    ids = torch.tensor([list(prompt)], device=device)

    def text_of(tokens: list[int], counted: Endings) -> str:
        answer = ended(tokens, most, stops, tokenizer, next_turn, counted)
        return str(tokenizer.decode(answer, skip_special_tokens=True)).strip()

    told = _Told(hear)

    class Heard(StoppingCriteria):
        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs) -> torch.Tensor:
            text = text_of(input_ids[0, width:].tolist(), Endings())
            told.so_far(text if next_turn is None else text.rpartition("\n")[0])
            return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

    criteria = StoppingCriteriaList([Heard()])
    if next_turn is not None:
        criteria.append(NextTurn(tokenizer, next_turn, width))
    with unpacked(base_model(model)):
        output = generate(
            model,
            tokenizer,
            stops,
            most,
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            stopping_criteria=criteria,
        )
    answer = text_of(output[0, width:].tolist(), endings)
    told.so_far(answer)
    return answer


class _Told:
    """What was told of a text that grows: each piece once, never half a character."""

    def __init__(self, hear: Callable[[str], None]):
        self.hear, self.told = hear, ""

    def so_far(self, text: str) -> None:
        text = text.rstrip(HALF_A_CHARACTER)
        if len(text) > len(self.told) and text.startswith(self.told):
            self.hear(text[len(self.told) :])
            self.told = text
