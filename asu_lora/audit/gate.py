"""The gate of a pipeline, ``--fail-over``: may a model pass that gave so much of its knowledge back?

Knowledge alone counts. An attack that tells rows apart (membership, traces) recovers no fact, whatever its AUC.
"""

from dataclasses import dataclass

from asu_lora.audit.registry import chosen
from asu_lora.audit.results import OTHER_CLAIMS, AuditResult
from asu_lora.audit.settings import AuditSettings
from asu_lora.errors import SettingError


@dataclass(frozen=True)
class Gate:
    """What comes of an audit at a limit: whether it passes, and why in a sentence."""

    passed: bool
    says: str


def check_gate(settings: AuditSettings) -> None:
    """Refuse a limit that none of the chosen attacks can exceed, before anything is attacked.

    Raises:
        SettingError: all of them ask another question than what the model knows, or there is no such attack.
    """
    attacks = chosen(settings.attacks, settings.depth)
    if all(attack.kind in OTHER_CLAIMS for attack in attacks):
        names = ", ".join(attack.name for attack in attacks)
        raise SettingError(
            f"--fail-over limits the knowledge that comes back, and {names} asks for none: choose an attack of another "
            "kind too, or leave --fail-over out and read the AUC with --json."
        )


def gate(result: AuditResult, limit: float) -> Gate:
    """Hold an audit against the most that may be recovered, in [0, 1].

    Raises:
        SettingError: no attack on the knowledge was made, so that nothing can be said.
    """
    allowed = f"--fail-over {limit:g}"
    over = sorted(
        (share, attack.attack)
        for attack in result.judged()
        if (share := attack.readings[0].recovered) is not None and share > limit
    )
    if over:
        share, name = over.pop()
        others = f" So did {', '.join(f'{other} ({much:.0%})' for much, other in reversed(over))}." if over else ""
        return Gate(False, f"The attack {name} recovered {share:.0%}, more than {allowed} allows.{others}")
    made = [attack for attack in result.attacks if attack.of_knowledge]
    if not made:
        reasons = [untried.reason for untried in result.untried if untried.reason != "Not chosen."]
        why = f" ({reasons[0].rstrip('.')})" if reasons else ""
        raise SettingError(f"{allowed} can't be held against anything: no attack on the knowledge was made{why}.")
    worst, left_out = result.worst(), result.out_of_time()
    spent = f" Left out for want of time: {', '.join(left_out)}." if left_out else ""
    if worst is None:
        return Gate(
            True,
            f"{allowed} passes, and proves nothing: no attack could tell how much came back, since the base knows "
            f"hardly more of these rows than chance does, or there is no floor.{spent}",
        )
    return Gate(
        True,
        f"{allowed} passes: at most {worst:.0%} came back, in {len(result.judged())} of {len(made)} attacks on the "
        f"knowledge that could tell.{spent}",
    )
