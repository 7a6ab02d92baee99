"""Layers as a person writes them, ``4-20`` or ``upper-half``, as indices."""

from asu_lora.errors import SettingError

_SHARES = {"upper": 3, "upper-half": 2}


def parse_layers(text: str, number: int) -> list[int] | None:
    """``'all'``, a share, or ranges such as ``'4-20'`` or ``'0,5-9'``, into layer indices below ``number``.

    Returns:
        None for all. The shares are ``upper``, the last third, and ``upper-half``.

    Raises:
        SettingError: not such a range, or a layer the base doesn't have.
    """
    if text.strip().lower() == "all":
        return None
    if text.strip().lower() in _SHARES:
        return list(range(number - max(1, number // _SHARES[text.strip().lower()]), number))
    layers: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise SettingError(
                f"The layers '{text}' can't be read: write 'all', 'upper', 'upper-half', '4-20' or '0,5-9'."
            )
        start, end = int(first), int(last if dash else first)
        if end < start or end >= number:
            raise SettingError(f"The layers '{part.strip()}' are out of range: the base has layers 0 to {number - 1}.")
        layers.update(range(start, end + 1))
    return sorted(layers)
