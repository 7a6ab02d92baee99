"""Requests and runs on top of adapters that are there."""

from tests.support.tiny_run import FACTS, rows


def request(first: int, last: int, name: str):
    from asu_lora.data.request import ForgetRequest

    return ForgetRequest.from_rows(rows(FACTS[first:last]), rows(FACTS[6:]), name)
