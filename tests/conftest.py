"""What several test files share: the oracle and TOFU from ../shared, a tiny base with a tokenizer."""

import gc
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.root import ROOT

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Nothing here is compiled, but bitsandbytes would load torch's compiler: 1.7 of 12 seconds, in each process started.
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")

# The suite gives one commit one verdict; `make fuzz` draws other examples each time.
settings.register_profile("suite", derandomize=True)
settings.register_profile("fuzz", print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))


QUICK_ROOMS = ("batches", "data", "losses")  # many short files


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run tests that take minutes")


def pytest_collection_modifyitems(config, items):
    items.sort(key=lambda item: item.path.parts[-2] in QUICK_ROOMS)  # at the end no worker waits long for another
    if not config.getoption("--slow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="takes minutes; run pytest with --slow"))


def pytest_collection_finish():
    """Collections of garbage leave out the libraries, all imported by now: Trainer's were 0.9 s of a run of 2.4 s."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of references that a developer's checkout has beside it."""
    folder = Path(os.environ.get("ASU_LORA_SHARED") or ROOT.parent / "shared")
    if not (folder / "README.md").is_file():
        pytest.skip("needs the references in ../shared (or ASU_LORA_SHARED), which a user's clone doesn't have")
    return folder


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Fingerprints of throw-away checkpoints stay out of the user's cache; the embedded base is shared."""
    import asu_lora.bases.source

    real = asu_lora.files.cache_folder()
    if not os.environ.get("ASU_LORA_CACHE"):
        folder = tmp_path_factory.mktemp("cache")
        (real / "bases").mkdir(parents=True, exist_ok=True)
        (folder / "bases").symlink_to(real / "bases")
        os.environ["ASU_LORA_CACHE"] = str(folder)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory) -> Path:
    """A checkpoint of two layers with a chat template: random weights, a real tokenizer."""
    from tests.support.tiny_base import save_tiny_base

    return save_tiny_base(tmp_path_factory.mktemp("bases") / "tiny")


@pytest.fixture(scope="session")
def taught_base(tmp_path_factory) -> Path:
    """The same checkpoint after it has learned twelve facts by heart."""
    from tests.support import tiny_run
    from tests.support.made_once import made_once

    return made_once(tmp_path_factory, "taught", tiny_run.save_taught_base)


@pytest.fixture(scope="session")
def never_taught(tmp_path_factory) -> Path:
    """A base that was taught the kept facts alone; a copy of this process's own, for audits write beside merged weights."""
    from tests.support.made_once import made_once
    from tests.support.planted import save_never_taught

    made = made_once(tmp_path_factory, "never", save_never_taught)
    return Path(shutil.copytree(made, tmp_path_factory.mktemp("bases") / "never"))


@pytest.fixture(scope="module")
def base(taught_base):
    """The taught base, loaded: one for all tests of a file, each of which leaves it as it was."""
    from asu_lora.models.loading import load_base

    return load_base(str(taught_base), "fp32", "cpu")


@pytest.fixture
def snapshot(base):
    """The base must be afterwards what it was before: the same modules and weights, plain and in eval mode."""
    from tests.support.plain_base import describe

    before = describe(base.model)
    yield
    assert describe(base.model) == before
    assert not base.model.training and not any(module.training for module in base.model.modules())


@pytest.fixture(scope="session")
def forgetting_adapter(taught_base, tmp_path_factory) -> Path:
    """An adapter trained on the taught base in NF4: it has forgotten a good part of the first six facts."""
    from asu_lora import forget
    from tests.support.made_once import made_once
    from tests.support.tiny_run import tiny_request, tiny_settings

    def make(store):
        config = tiny_settings(precision="nf4", epochs=20, lr=3e-3)
        forget(tiny_request(), str(taught_base), config, name="forgetting", store=store)

    return made_once(tmp_path_factory, "forgetting", make) / "forgetting"


@pytest.fixture(scope="module")
def tokenizer():
    """A real word-piece tokenizer: rare names are several tokens."""
    from tests.support.word_pieces import word_piece_tokenizer

    return word_piece_tokenizer()


@pytest.fixture(params=["fp32", "bf16"])
def nf4_compute(request, monkeypatch) -> str:
    """NF4 computes in both types, whatever this CPU would choose. bf16 is slow where it is emulated: tiny models only."""
    monkeypatch.setenv("ASU_LORA_NF4_COMPUTE", request.param)
    return request.param
