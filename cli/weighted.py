"""Adapters as they are typed: ``name``, or ``name:weight``."""

from typing import Any

import click


class WeightedAdapter(click.ParamType):
    """``b:0.5`` as ("b", 0.5), and ``b`` as ("b", 1.0); the name may also be a path."""

    name = "name[:weight]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, float]:
        if not isinstance(value, str):
            return value
        name, colon, weight = value.rpartition(":")
        if not colon or "/" in weight or "\\" in weight:  # no weight, or the colon of a Windows drive
            return value, 1.0
        try:
            return name, float(weight)
        except ValueError:
            self.fail(f"{weight!r} in {value!r} is no weight: write a number, such as {name}:0.5.", param, ctx)
