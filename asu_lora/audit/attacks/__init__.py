"""One attack a file; :mod:`asu_lora.audit.registry` names them."""
