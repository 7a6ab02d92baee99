"""Thirty requests of TOFU authors, twenty questions each, from their arrival to the page that `asu-lora report` draws.

    python benchmarks/requests_report.py TOFU --work FOLDER                 # on a tiny base that it teaches the rows
    python benchmarks/requests_report.py TOFU --work FOLDER --base BASE     # on a base that knows them

TOFU is the folder of TOFU's JSON files. Each request is one of the first authors of retain90.json; a broken file comes
beside them. They are trained by `asu-lora requests run`, some are audited and certified, ten are combined and marked
as served, one is withdrawn and its combined adapter built anew. Then the page is shown in headless Chromium, wide and
narrow, light, dark and as it prints; the pictures land in FOLDER/pictures, or with --pictures elsewhere. The same
command goes on where it stopped.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from asu_lora.adapters.store import AdapterStore
from asu_lora.data.reading import read_rows
from asu_lora.report.page import write_report
from asu_lora.requests.deployment import deploy, look_at
from asu_lora.requests.intake import Details, Files, add
from asu_lora.requests.key import ENVIRONMENT, find_key, new_key
from asu_lora.requests.ledger.ledger import Ledger, open_ledger
from asu_lora.requests.ledger.states import utc_text
from asu_lora.requests.text_vault import TextVault
from asu_lora.requests.withdrawal import withdraw
from common.tiny_base import save_tiny_base

EACH = 20  # questions of an author in TOFU
SETTINGS = "--precision fp32 --device cpu --rank 4 --eval-rows 10 --retain-per-forget 1 --batch-size 4".split()
TINY = "--tau 3 --smooth-layers all --adapter-layers all --epochs 2".split()
OWNERS = ("privacy desk", "A. Lindqvist", "support north", "legal")
BASES = ("GDPR Art. 17(1)(b)", "GDPR Art. 17(1)(c)", "CCPA 1798.105", "contract")


def teach(folder: Path, rows: list[dict[str, str]], epochs: int) -> None:
    """The tiny base, fine-tuned on the rows: it knows some of them afterwards."""
    import torch
    from torch.nn.functional import cross_entropy
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from asu_lora.batches.padding import pad_group
    from asu_lora.data.encoding import Encoder
    from asu_lora.data.examples import examples_from_rows

    save_tiny_base(folder)
    encoder = Encoder(AutoTokenizer.from_pretrained(folder))
    items = sorted(
        encoder.encode_all(examples_from_rows(rows, "authors")),
        key=lambda item: len(item.prompt_ids) + len(item.answer_ids),
    )
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    groups = [items[start : start + 20] for start in range(0, len(items), 20)]
    torch.manual_seed(0)
    for _ in range(epochs):
        for place in torch.randperm(len(groups)).tolist():
            batch = pad_group(groups[place], 0)
            labels = torch.cat([torch.tensor(item.answer_ids) for item in groups[place]])
            logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
            optimizer.zero_grad()
            cross_entropy(logits.flatten(0, 1)[batch["positions"]], labels).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    model.save_pretrained(folder)


def take_in(store: Path, authors: list[list[dict[str, str]]], folder: Path) -> Ledger:
    """A request an author, due in days to weeks, two of them days ago; and one whose file is broken."""
    vault = TextVault(find_key().secret)
    ledger, adapters = open_ledger(store, create=True, actor="desk@example", seal=vault.seal), AdapterStore(store)
    now, file = datetime.now(UTC), folder / "request.jsonl"
    for number, rows in enumerate(authors, start=1):
        if ledger.find(name := f"TICKET-{1200 + 7 * number}") is not None:
            continue
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        due = utc_text(now + timedelta(days=(-2 if number in (4, 11) else 3 + 9 * number % 31)))
        note = "second letter" if number % 9 == 0 else None
        details = Details(due, OWNERS[number % 4], BASES[number % 4], note)
        add(ledger, vault, name, Files(str(file)), details, store=adapters)
    if ledger.find("TICKET-1500") is None:
        file.write_text('{"question": "Where')
        add(ledger, vault, "TICKET-1500", Files(str(file)), Details(utc_text(now + timedelta(days=6))), store=adapters)
    file.unlink(missing_ok=True)
    return ledger


def train(store: Path, base: Path, *words: str) -> None:
    """``asu-lora requests run``; 1 says that a request failed, which is on the page."""
    command = [sys.executable, "-m", "asu_lora", "requests", "run", "--base", str(base), "--store", str(store)]
    code = subprocess.run([*command, *SETTINGS, *words], stdout=subprocess.DEVNULL).returncode
    assert code in (0, 1), f"the run ended with {code}"


def certify(store: Path, names: list[str]) -> None:
    """A certificate for each adapter that was audited and has none yet."""
    for name in names:
        if (store / name / "audit.json").is_file() and not (store / name / "certificate.json").is_file():
            command = [sys.executable, "-m", "asu_lora", "audit", "certify", name, "--store", str(store)]
            subprocess.run([*command, "--issuer", "Data Protection Office"], check=True, stdout=subprocess.DEVNULL)


def serve_and_withdraw(ledger: Ledger, store: AdapterStore) -> None:
    """The first combined adapter is marked as served; one request of the last combined one is withdrawn."""
    if not ledger.served() and (combined := ledger.consolidated()):
        deploy(ledger, look_at(ledger, store, [combined[0].payload["adapter"]]), "the clinic's assistant")
    if len(ledger.consolidated()) > 1 and not ledger.requests(["withdrawn"]):
        withdraw(ledger, store, ledger.consolidated()[-1].payload["requests"][-1], "the person changed their mind")


def shoot(page: Path, folder: Path) -> list[Path]:
    """Pictures of the page: wide and narrow, light and dark, as it prints; its first screen, its parts, the whole."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert program, "needs a Chromium on the PATH"
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        for name, width, height, scheme, media in (
            ("wide", 1200, 900, "light", "screen"),
            ("wide_dark", 1200, 900, "dark", "screen"),
            ("narrow", 390, 844, "light", "screen"),
            ("narrow_dark", 390, 844, "dark", "screen"),
            ("print", 794, 1123, "light", "print"),
        ):
            shown = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            shown.emulate_media(media=media, color_scheme=scheme)
            shown.goto(page.as_uri())
            for part in ("", "requests", "served", "time", "adapters", "whole"):
                if part and part != "whole":
                    shown.evaluate("part => document.getElementById(part)?.scrollIntoView()", part)
                made.append(folder / f"{name}_{part}.png" if part else folder / f"{name}.png")
                shown.screenshot(path=made[-1], full_page=part == "whole")
            shown.close()
        browser.close()
    return made


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tofu", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="folder that everything is in, and a run goes on in")
    parser.add_argument("--base", type=Path, help="a checkpoint; by default a tiny one that is taught here")
    parser.add_argument("--requests", type=int, default=30)
    parser.add_argument("--together", type=int, default=10, help="so many are combined into one adapter")
    parser.add_argument("--audited", type=int, default=2, help="so many of them are audited and certified")
    parser.add_argument("--epochs", type=int, default=5, help="over which the tiny base is taught")
    parser.add_argument("--pictures", type=Path, help="folder for the pictures  [default: WORK/pictures]")
    return parser.parse_args()


def main() -> None:
    given = parsed()
    given.work.mkdir(parents=True, exist_ok=True)
    key, store = given.work / "key", given.work / "adapters"
    if not key.is_file():
        key.write_text(new_key())
    os.environ |= {ENVIRONMENT: key.read_text(), "HF_HUB_OFFLINE": "1"}
    rows: list[dict[str, Any]] = read_rows(given.tofu / "retain90.json")[: EACH * given.requests]
    authors = [rows[start : start + EACH] for start in range(0, len(rows), EACH)]
    base, began = given.base or given.work / "base", time.monotonic()
    if given.base is None and not (base / "taught").is_file():
        teach(base, rows, given.epochs)
        (base / "taught").touch()
    ledger = take_in(store, authors, given.work)
    own, together = TINY if given.base is None else [], str(given.together)
    train(store, base, *own, "--no-audit", "--consolidate", together)
    if missing := max(given.audited - len(ledger.history(events=["audited"])), 0):
        train(store, base, *own, "--no-re-audit", "--most", str(missing))
    certify(store, [request.adapter for request in ledger.requests(["audited", "deployed"]) if request.adapter])
    serve_and_withdraw(ledger, AdapterStore(store))
    train(store, base, *own, "--no-audit", "--consolidate", together)  # what held the withdrawn one is built anew
    page = write_report(AdapterStore(store), given.work / "report.html")
    print(f"{ledger.counts()}, {time.monotonic() - began:.0f} s, {page}")
    for picture in shoot(page, given.pictures or given.work / "pictures"):
        print(picture)


if __name__ == "__main__":
    main()
