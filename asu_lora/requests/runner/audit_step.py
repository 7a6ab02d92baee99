"""How the runner audits; until this installation has an audit, it does not, and ``requests run`` says so."""

from asu_lora.requests.runner.workshop import AuditStep


def audit_step() -> AuditStep | None:
    """The audit of this installation; None where it has none."""
    return None
