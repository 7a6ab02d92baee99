"""What the audits of a run will read, tried before anything is trained: the floor, its base, the signing key.

A file that is missing would otherwise be met hours later, by every adapter in turn.
"""

from asu_lora.audit.certificate.signing_key import key_of_store, read_signing_key
from asu_lora.data.request import read_examples
from asu_lora.models.prepared_base import prepare_base
from asu_lora.requests.runner.workshop import Workshop


def check_audit_files(shop: Workshop) -> None:
    """Refuse a run whose audits could not be made; nothing where it makes none.

    Raises:
        DataError: the floor's file is missing or broken.
        BaseModelError: the floor's base is.
        CertificateError: the signing key can't be read, or others may read it.
        StoreError: the store's own key is missing and can't be made.
    """
    if shop.audit is None:
        return
    policy, config = shop.settings.policy, shop.settings.config
    if policy.floor is not None:
        read_examples(policy.floor)
    if policy.floor_base is not None:
        prepare_base(policy.floor_base, config.precision, config.device, trust_remote_code=config.trust_remote_code)
    if policy.certify is not None:
        read_signing_key(policy.certify.key_file) if policy.certify.key_file else key_of_store(shop.store)
