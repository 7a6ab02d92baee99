"""The two halves of a run, what goes and what stays: each has its loss and its rows."""

import torch

from asu_lora.config import ForgetConfig
from asu_lora.data.chat_template import special_ids
from asu_lora.data.encoding import Encoded, Encoder, cut_note
from asu_lora.data.examples import Example
from asu_lora.data.request import ForgetRequest
from asu_lora.data.training_rows import TrainingRows
from asu_lora.errors import TrainingError
from asu_lora.losses import Loss, forget_loss, retain_loss
from asu_lora.losses.forget.asu import ASU
from asu_lora.losses.forget.asu_idk import ASUWithIDK
from asu_lora.models.loading import LoadedBase
from asu_lora.progress import Progress


def build_objectives(config: ForgetConfig, base: LoadedBase) -> dict[str, Loss]:
    """The loss of each half, with its parameters."""
    parameters: dict = {}
    if config.objective in (ASU.name, ASUWithIDK.name) and config.keep_speaking:
        rows = base.model.get_output_embeddings().weight.shape[0]
        # a tokenizer may have tokens that its base lacks: nothing has to forbid those
        forbidden = [token for token in special_ids(base.tokenizer) if token < rows]
        parameters |= {"forbidden": torch.tensor(forbidden, device=base.device), "rule_out": True}
    if config.objective in ("npo", "dpo"):
        parameters["beta"] = config.beta
    found = {"forget": forget_loss(config.objective, **parameters)}
    retain = retain_loss(config.retain_loss, **({"beta": config.beta} if config.retain_loss == "ap" else {}))
    if retain is not None and config.retain_coeff > 0 and config.retain_per_forget > 0:
        found["retain"] = retain
    return found


def encode_halves(
    request: ForgetRequest, encoder: Encoder, objectives: dict[str, Loss], idk: list[str], seed: int
) -> dict[str, TrainingRows]:
    """Encode the views that the objectives look at; each row's refusal is drawn once, by the seed."""
    generator = torch.Generator().manual_seed(seed)
    halves = {}
    for half, objective in objectives.items():
        examples = request.forget if half == "forget" else request.retain
        views: dict[str, list[Encoded]] = {}
        for view in objective.needs:
            if view == "idk":
                drawn = torch.randint(len(idk), (len(examples),), generator=generator).tolist()
                asked = [Example(e.prompt, idk[i], {}, e.row) for e, i in zip(examples, drawn, strict=True)]
                refuse_passages(asked)
                views[view] = encoder.encode_all(asked, f"{half} row")
            else:
                views[view] = encoder.encode_all(examples, f"{half} row")
        halves[half] = TrainingRows(views)
    return halves


def refuse_passages(examples: list[Example]) -> None:
    if any(example.is_passage for example in examples):
        raise TrainingError(
            'An "I don\'t know" answers a question, and this request has passages of plain text: use '
            "another objective or retain loss, such as asu with kl."
        )


def note_cut_answers(halves: dict[str, TrainingRows], max_length: int, progress: Progress) -> None:
    """Say how many answers the length cut off."""
    for half, rows in halves.items():
        if note := cut_note(rows.views.get("answer", []), max_length, half, "trained on"):
            progress.note(note)
