"""Random damage to every file of an adapter: all commands answer in sentences, and never with a traceback.

The seeds are fixed, so a failure comes back. ``python -m tests.adapters.test_fuzz N`` tries N seeds more.
"""

import copy
import json
import random
import sys
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from asu_lora.adapters.lora_folder import read_adapter
from asu_lora.adapters.store import AdapterStore
from asu_lora.cli import main
from asu_lora.errors import AsuLoraError
from tests.support.adapter_folders import add, fill, folder_in_memory

ODD = [None, True, -1, 0, 5, 1.5, 1e308, float("inf"), float("nan"), 10**30, "", "x", "../../x", "a\nb", "\x1b[31m", "[red]",
       "\u202e", [], {}, [None], {"a": None}, ["q_proj", 5], {"": 1}, {"(": 2}, [[0, 1]], "x" * 5000]  # fmt: skip


def spots(value, path=()):
    """The paths of everything inside a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from spots(inner, (*path, key))


def damage_json(text, rng):
    value = json.loads(text)
    for _ in range(rng.choice([1, 1, 2, 5])):
        path = rng.choice([spot for spot in spots(value) if spot] or [()])
        if not path:
            return json.dumps(rng.choice(ODD))
        place = value
        for key in path[:-1]:
            place = place[key]
        what = rng.random()
        if what < 0.7:
            place[path[-1]] = copy.deepcopy(rng.choice(ODD))
        elif what < 0.85:
            del place[path[-1]]
        elif isinstance(place, dict):
            place[rng.choice(["x", "", "sources", "use_dora", "target_parameters", "init_lora_weights"])] = rng.choice(
                ODD
            )
    return json.dumps(value)


def damage_bytes(content, rng):
    content = bytearray(content)
    for _ in range(rng.choice([1, 3, 20])):
        what, at = rng.random(), rng.randrange(len(content) or 1)
        if what < 0.6 and content:
            content[at] = rng.randrange(256)
        elif what < 0.8:
            del content[at : at + rng.choice([1, 8, 100])]
        else:
            content[at:at] = bytes(rng.randrange(256) for _ in range(rng.choice([1, 8, 100])))
    return bytes(content)


def damage_header(content, rng):
    length = int.from_bytes(content[:8], "little")
    header = damage_json(content[8 : 8 + length], rng).encode()
    return len(header).to_bytes(8, "little") + header + content[8 + length :]


def damage(folder, rng):
    """Change one file of an adapter folder."""
    name = rng.choice(["adapter_config.json", "manifest.json", "adapter_model.safetensors", "README.md"])
    path = folder / name
    content = path.read_bytes()
    if rng.random() < 0.25 or name == "README.md":
        path.write_bytes(damage_bytes(content, rng))
    elif name.endswith(".json"):
        path.write_text(damage_json(content, rng))
    else:
        path.write_bytes(damage_header(content, rng))


def command(*words):
    """Run one; it ends well or with one sentence."""
    result = CliRunner().invoke(main, ["adapters", *map(str, words)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code in (0, 2) and "Traceback" not in result.output
    return result


def try_seed(seed, place):
    rng = random.Random(seed)
    store = AdapterStore(place / "store")
    add(store, "sound")
    stored = fill(store.root / "odd", "odd")
    damage(stored, rng)
    for words in (["list"], ["list", "--json"], ["show", "odd"], ["show", "odd", "--json"], ["verify"]):
        command(*words, "--store", store.root)
    listed = {adapter.name: adapter.state for adapter in store.list()}
    assert listed["sound"] == "ready" and set(listed) == {"sound", "odd"}
    try:
        read_adapter(stored)
    except AsuLoraError as error:
        assert "\n" not in str(error)
    command("export", "odd", place / "out.tar.gz", "--store", store.root)
    command("remove", "sound", "--yes", "--store", store.root)

    target = AdapterStore(place / "target")
    command("import", stored, "--store", target.root)
    sound = fill(place / "sound", "sound")
    archive = AdapterStore(place / "third")
    command("import", sound, "--store", archive.root)
    packed = archive.export("sound", place / rng.choice(["a.tar.gz", "a.zip"]))
    packed.write_bytes(damage_bytes(packed.read_bytes(), rng))
    result = command("import", packed, "-n", "taken", "--store", target.root)
    assert ("taken" in target.names()) == (result.exit_code == 0)
    assert target.names() == [] or all(not adapter.broken for adapter in target.list())


@pytest.mark.parametrize("block", range(4))
def test_random_damage_never_ends_in_a_traceback(block):
    for seed in range(10 * block, 10 * block + 10):
        with folder_in_memory() as place:
            try_seed(seed, place)


if __name__ == "__main__":
    for seed in range(1000, 1000 + int(sys.argv[1])):
        with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
            try:
                try_seed(seed, Path(place))
            except BaseException as error:
                print(seed, type(error).__name__, str(error)[:200])
