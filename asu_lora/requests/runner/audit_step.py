"""How the runner audits: what ``asu-lora audit --quick`` does, its figures as the ledger keeps them."""

from typing import Any

from asu_lora.audit.request import AuditRequest
from asu_lora.audit.run import audit
from asu_lora.audit.save import save_audit
from asu_lora.audit.settings import AuditSettings
from asu_lora.data.request import GENERAL
from asu_lora.requests.runner.workshop import AuditTask

DEPTH = "quick"


def quick_audit(task: AuditTask) -> dict[str, Any]:
    """Attack an adapter for what it was to forget; ``audit.json`` is written into its folder.

    Returns:
        ``worst``, the largest share of the knowledge that an attack recovered; ``recovered`` by attack; the attacks
        not tried.

    Raises:
        AsuLoraError: the audit can't be made.
    """
    config, kept = task.config, task.request.retain_source != GENERAL
    asked = AuditRequest(
        forget=list(task.request.forget),
        base=task.base.source.name,
        adapters=task.adapters,
        store=task.store.root,
        retain=list(task.request.retain) if kept else None,
        precision=config.precision,
        device=config.device,
        trust_remote_code=config.trust_remote_code,
    )
    result = audit(asked, AuditSettings(depth=DEPTH, seed=config.seed), loaded=task.base)
    save_audit(result, asked)
    recovered = {attack.attack: attack.readings[0].recovered for attack in result.attacks if attack.readings}
    return {
        "depth": DEPTH,
        "worst": result.worst(),
        "recovered": recovered,
        "untried": [untried.attack for untried in result.untried],
        "rows": result.rows,
    }
