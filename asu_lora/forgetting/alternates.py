"""Other plausible answers to the forget questions: the rows' own, or what the base makes up."""

from collections.abc import Sequence
from functools import partial

from asu_lora.data.examples import Example
from asu_lora.data.reference_answers import reference_answers
from asu_lora.errors import TrainingError
from asu_lora.forgetting.run import ForgetRun
from asu_lora.models.generation import enough_tokens, generate_answers

ALTERNATE = "alternate_answer"  # the column
MADE_UP = (
    "Question: {question}\nAnswer: {answer}\n\nMake up another answer to this question. It must sound as plausible and "
    "be about as long, but every fact in it must be another one. Write nothing but the answer."
)


def own_alternates(examples: Sequence[Example]) -> list[str | None]:
    """The first ``alternate_answer`` of each row, None where it has none.

    Raises:
        TrainingError: a passage, which has no question that another answer could be given to.
    """
    if any(example.is_passage for example in examples):
        raise TrainingError(
            "altpo needs questions, and this request has passages of plain text: use another objective, such as asu."
        )
    return [next(iter(reference_answers(example, ALTERNATE)), None) for example in examples]


def alternate_answers(run: ForgetRun) -> list[str]:
    """An alternate answer for each forget row; the base makes up those that the rows don't have.

    Raises:
        TrainingError: passages, or the base makes up nothing but the answers themselves.
    """
    examples = run.request.forget
    found = own_alternates(examples)
    missing = [at for at, text in enumerate(found) if text is None]
    if missing:
        run.progress.stage("Making up other answers", len(missing))
        prompts = [run.encoder.prompt_ids(made_up_prompt(examples[at])) for at in missing]
        truths = run.encoder.encode_all([examples[at] for at in missing], "forget row")
        _, most = enough_tokens(truths, prompts)  # of an answer: the prompt holds the true one, and is long
        answers = partial(
            generate_answers, run.model, run.base.tokenizer, prompts, new_tokens=most, progress=run.progress.advance
        )
        with run.teaching():
            told = run.once(("alternates", most, *map(tuple, prompts)), answers)
        for at, tokens in zip(missing, told, strict=True):
            found[at] = str(run.base.tokenizer.decode(tokens, skip_special_tokens=True)).strip() or None
    return gaps_filled(run, examples, found)


def made_up_prompt(example: Example) -> tuple[dict[str, str], ...]:
    """The conversation that asks for another answer."""
    return example.asked(MADE_UP.format(question=example.question, answer=example.answer))


def gaps_filled(run: ForgetRun, examples: Sequence[Example], found: Sequence[str | None]) -> list[str]:
    """The answers; where one is missing or is the true one, the next row's, which is wrong here too."""
    useless = [at for at, text in enumerate(found) if text is None or same_answer(text, examples[at].answer)]
    if not useless:
        return [text for text in found if text is not None]
    usable = [text for at, text in enumerate(found) if text is not None and at not in set(useless)]
    others = usable or [example.answer for example in examples]
    filled = list(found)
    for at in useless:
        other = next((o for o in others[at % len(others) :] + others if not same_answer(o, examples[at].answer)), None)
        if other is None:
            raise TrainingError(
                f"The base can make up no other answer than the true one: give the rows a column '{ALTERNATE}', or use "
                "another objective."
            )
        filled[at] = other
    run.progress.note(
        f"The base made up nothing else for {len(useless)} of {len(examples)} forget rows: other rows' answers stand "
        f"there. A column '{ALTERNATE}' gives your own."
    )
    return [text for text in filled if text is not None]


def same_answer(one: str, other: str) -> bool:
    """Whether two answers differ in nothing but case and white space."""
    return " ".join(one.split()).casefold() == " ".join(other.split()).casefold()
