"""Methods by name: ``ASU_KL`` is the forget loss asu with the retain loss kl."""

from dataclasses import replace

from asu_lora.errors import SettingError
from asu_lora.objectives import FORGET, NO_RETAIN, RETAIN
from asu_lora.settings import ForgetConfig


def method_configs(text: str | None, config: ForgetConfig) -> dict[str, ForgetConfig]:
    """The settings of every method in ``"ASU_KL,NPO_GD"`` or ``"ASU_KL=1e-3,GA_GD=1e-4"`` (its own learning rate).

    Args:
        text: None is the config's own losses.

    Raises:
        SettingError: no such method, or a learning rate that is none.
    """
    if text is None:
        return {f"{config.objective}_{config.retain_loss}".upper(): config}
    found = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        name, given, lr = entry.partition("=")
        objective, _, retain = name.strip().lower().rpartition("_")
        if objective not in FORGET or retain not in (*RETAIN, NO_RETAIN):
            raise SettingError(f"There is no method '{name}': write FORGET_RETAIN with FORGET one of "
                               f"{', '.join(FORGET).upper()} and RETAIN one of {', '.join(RETAIN).upper()}, NONE.")
        own = replace(config, objective=objective, retain_loss=retain)
        if given:
            try:
                own = replace(own, lr=float(lr))
            except ValueError as error:
                raise SettingError(f"The method '{entry}' has the learning rate '{lr}', which is no number.") from error
        if name.strip().upper() in found:
            raise SettingError(f"The method {name.strip().upper()} is named twice.")
        found[name.strip().upper()] = own
    if not found:
        raise SettingError("No method is named: write FORGET_RETAIN, such as ASU_KL.")
    return found


def folder_name(method: str) -> str:
    """A method's folder: ``ASU+IDK_KL`` is ``ASU-IDK_KL``."""
    return method.replace("+", "-")
