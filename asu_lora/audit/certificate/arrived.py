"""The certificate that an adapter brings into the store: of this adapter and unchanged, or it doesn't stay."""

from asu_lora.adapters.store import AdapterStore
from asu_lora.adapters.stored_adapter import StoredAdapter
from asu_lora.audit.certificate.record import CERTIFICATE_NAME
from asu_lora.audit.certificate.verify import Evidence, verify_certificate
from asu_lora.errors import AdapterError, CertificateError
from asu_lora.files import disk_errors


def keep_if_sound(store: AdapterStore, adapter: StoredAdapter) -> str | None:
    """Check the certificate in a folder that was just taken in, and remove one that is changed, or of another model.

    Whether its signer and its dates are to be trusted is for the person to say; its page is drawn anew from it.

    Returns:
        A sentence on what became of it; None where there is none.

    Raises:
        StoreError: the disk refuses.
    """
    file = store.root / adapter.name / CERTIFICATE_NAME
    if not file.is_file():
        return None
    try:
        report = verify_certificate(file, Evidence(adapters=[file.parent]))
        wrong = [check.problem for check in report.checks if check.name.startswith("adapter ") and check.problem]
        if report.certificate.done.merged is not None:
            wrong.append("it is of a merged folder.")
    except (CertificateError, AdapterError) as error:
        wrong = [str(error)]
    if not wrong:
        return (
            f"Its certificate {report.certificate.serial} is of this adapter; whether to trust who signed it says "
            f"'asu-lora audit verify {file} --key KEY', and 'asu-lora audit page {file}' draws its page."
        )
    if adapter.manifest is None or CERTIFICATE_NAME not in adapter.manifest.files:
        with disk_errors(store.root), store.staging.lock():
            file.unlink(missing_ok=True)
        return f"Its certificate was left behind, for it is not to be trusted: {wrong[0]}"
    return f"Its certificate is not to be trusted: {wrong[0]}"
