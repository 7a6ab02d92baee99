"""The adapter that was trained, written as a PEFT folder, without PEFT's model card.

A checkpoint needs none, and the store writes its own. PEFT compiles its template anew for each: 0.04 s, a seventh of a
tiny request's time with its checkpoints.
"""

from pathlib import Path

from peft import PeftModel


def save_adapter(model: PeftModel, folder: str | Path) -> None:
    """Write the adapter "default": its config and weights."""
    vars(model)["create_or_update_model_card"] = lambda output_dir: None
    try:
        # "auto" would ask the hub for the base's config
        model.save_pretrained(str(folder), save_embedding_layers=False, selected_adapters=["default"])
    finally:
        del vars(model)["create_or_update_model_card"]
