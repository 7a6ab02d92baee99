"""What a launched process does: ``LAUNCHER -m asu_lora.requests.runner.launched``, see ``launch.py``."""

import json
import os
from pathlib import Path
from typing import Any

from asu_lora.config import ForgetConfig
from asu_lora.errors import AsuLoraError
from asu_lora.requests.intake import stored
from asu_lora.requests.runner.launch import JOB
from asu_lora.requests.runner.settings import Places, RunSettings


def train(job: dict[str, Any]) -> bool:
    """Train the request of a job as one of the launcher's processes; whether it went well. Faults are answered."""
    rank, answers = os.environ.get("RANK", "0"), Path(job["answers"])
    (answers / f"{rank}.begun").touch()
    try:
        _train(job)
    except AsuLoraError as error:
        told = {"error": type(error).__name__, "said": stored(error, names=[job["request"], job["base"]])}
    except Exception as error:
        told = {"error": "TrainingError", "said": stored(error)}
    else:
        return True
    (answers / f"{rank}.json").write_text(json.dumps(told))
    return False


def _train(job: dict[str, Any]) -> None:
    from asu_lora.forgetting.forget import forget
    from asu_lora.requests.engines.quiet_worker import quiet
    from asu_lora.requests.runner.workshop import Workshop

    quiet()
    told = job["places"]
    places = Places(Path(told["store"]), told["address"], _path(told["key_file"]), told["actor"], told["results"])
    shop = Workshop.open(places, RunSettings(job["base"], ForgetConfig(**job["config"]), audit=False))
    request = shop.text(job["request"]).request(job["request"])
    forget(
        request, shop.base, shop.settings.config, name=job["request"], store=shop.store, resume=job["resume"]
    )  # the first process alone writes the adapter


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


if __name__ == "__main__":
    raise SystemExit(0 if train(json.loads(os.environ[JOB])) else 1)
