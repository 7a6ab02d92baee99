"""What libraries say in a worker goes into Ray's log files: nothing but their errors."""

import logging
import warnings


def quiet() -> None:
    """Leave the libraries' errors, drop the rest."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for name in ("bitsandbytes", "datasets", "accelerate", "torch", "filelock"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
