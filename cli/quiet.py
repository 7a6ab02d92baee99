"""Libraries beneath say much that a person at the command line can do nothing about."""


def quiet_libraries() -> None:
    """Leave their errors, drop their progress bars and hints; ASU_LORA_VERBOSE=1 keeps everything."""
    import logging
    import os
    import warnings

    if os.environ.get("ASU_LORA_VERBOSE"):
        return
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler under --profile
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for name in ("bitsandbytes", "datasets", "accelerate", "torch", "filelock"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
