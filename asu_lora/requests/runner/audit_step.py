"""How the runner audits: what ``asu-lora audit`` does, its figures as the ledger keeps them."""

from typing import Any

from asu_lora.audit.gate import gate
from asu_lora.audit.request import AuditRequest
from asu_lora.audit.results import AuditResult
from asu_lora.audit.run import audit
from asu_lora.audit.save import save_audit
from asu_lora.audit.settings import AuditSettings
from asu_lora.data.request import GENERAL
from asu_lora.requests.runner.kept_share import kept_share
from asu_lora.requests.runner.workshop import AuditTask


def audit_adapter(task: AuditTask) -> dict[str, Any]:
    """Attack an adapter for what it was to forget; ``audit.json`` is written into its folder.

    Returns:
        ``worst``, the largest share of the knowledge that an attack recovered; ``recovered`` by attack; the attacks
        not tried; ``kept``, the share of its probability that what is kept has; ``over``, a sentence, where more
        came back or less is kept than the run allows; and ``unjudged``, a sentence, where no attack could tell.

    Raises:
        AsuLoraError: the audit can't be made.
    """
    config, policy, named = task.config, task.policy, task.request.retain_source != GENERAL
    asked = AuditRequest(
        forget=list(task.request.forget),
        base=task.base.source.name,
        adapters=task.adapters,
        store=task.store.root,
        retain=list(task.request.retain) if named else None,
        floor=policy.floor,
        floor_base=policy.floor_base,
        precision=config.precision,
        device=config.device,
        trust_remote_code=config.trust_remote_code,
    )
    result = audit(asked, AuditSettings(depth=policy.depth, seed=config.seed), task.progress, loaded=task.base)
    save_audit(result, asked, replace=True)  # what is active with it changes from audit to audit
    recovered = {attack.attack: attack.readings[0].recovered for attack in result.attacks if attack.readings}
    found = {
        "depth": policy.depth,
        "worst": result.worst(),
        "recovered": recovered,
        "untried": [untried.attack for untried in result.untried],
        "rows": result.rows,
    }
    kept = kept_share(task)
    found |= {} if kept is None else {"kept": round(kept, 4)}
    wrong = []
    if task.limit is not None:
        found |= {"limit": task.limit}
        if result.worst() is None:
            found |= {"unjudged": _unjudged(result, task.limit)}
        elif not (held := gate(result, task.limit)).passed:
            wrong.append(held.says)
    if kept is not None and policy.keep_at_least is not None and kept < policy.keep_at_least:
        wrong.append(
            f"What is kept has {kept:.0%} of its probability, less than --keep-at-least {policy.keep_at_least:g}."
        )
    return found | ({"over": " ".join(wrong)} if wrong else {})


def _unjudged(result: AuditResult, limit: float) -> str:
    """Why nothing was held against the limit: a gate that opens where nobody can tell would be none."""
    why = "the base knows hardly more of these rows than chance does, or there is no floor"
    reasons = [untried.reason for untried in result.untried if untried.reason != "Not chosen."]
    if reasons and not any(attack.of_knowledge for attack in result.attacks):
        why = reasons[0].rstrip(".")
    return f"No attack could tell how much came back ({why}), so nothing was held against --fail-over {limit:g}."
