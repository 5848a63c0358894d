"""The patterns of `to_char` for numbers."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from typing import Final

from sync_hub.errors import ConfigError
from sync_hub.mapping import numerics

NOTE: Final = (
    "For numbers: 9 0 . , D G S MI PR FM, and other characters as they are; D and G are point and comma. "
    "NaN and infinities show as #."
)
_TOKEN = re.compile(r'FM|MI|PR|"[^"]*"|.', re.IGNORECASE | re.DOTALL)
_REFUSED: Final = frozenset("VELCTRBPvelctrbp")


class _Form:
    """A number's form, taken apart once."""

    def __init__(self, form: str) -> None:
        marks = [mark if mark.startswith('"') else mark.upper() for mark in _TOKEN.findall(form)]
        self.fill = "FM" not in marks
        self.marks = ["." if mark == "D" else "," if mark == "G" else mark for mark in marks if mark != "FM"]
        for mark in self.marks:
            if mark in _REFUSED or (mark in {"H", "N"} and len(mark) == 1):
                raise ConfigError("bad_format", f"the pattern {mark!r} is not supported", hint=NOTE)
        if self.marks.count(".") > 1 or sum(self.marks.count(sign) for sign in ("S", "MI", "PR")) > 1:
            raise ConfigError("bad_format", "a number's form has one point and one sign", hint=NOTE)
        point = self.marks.index(".") if "." in self.marks else len(self.marks)
        whole, self.fraction = self.marks[:point], self.marks[point + 1 :]
        self.places = sum(mark in {"9", "0"} for mark in whole)
        self.decimals = sum(mark in {"9", "0"} for mark in self.fraction)
        zero = next((index for index, mark in enumerate(t for t in whole if t in {"9", "0"}) if mark == "0"), None)
        self.always = self.places - zero if zero is not None else 0
        """How many digits before the point are shown even when they are leading zeros."""
        zeros = [index for index, mark in enumerate(t for t in self.fraction if t in {"9", "0"}) if mark == "0"]
        self.kept = zeros[-1] + 1 if zeros else 0
        self.sign = next((mark for mark in self.marks if mark in {"S", "MI", "PR"}), "")
        digits = [index for index, mark in enumerate(self.marks) if mark in {"9", "0", "."}]
        self.sign_first = self.sign == "S" and bool(digits) and self.marks.index("S") < digits[0]


def writer(form: str) -> Callable[[Decimal], str]:
    """A function that shows a decimal in this form."""
    parsed = _Form(form)
    return lambda value: _show(parsed, value)


def integer_writer(form: str) -> Callable[[int], str]:
    """A function that shows a whole number in this form."""
    parsed = _Form(form)
    return lambda value: _show(parsed, Decimal(value))


def float_writer(form: str) -> Callable[[float], str]:
    """A function that shows a float in this form."""
    parsed = _Form(form)
    return lambda value: _show(parsed, numerics.float_to_decimal(value))


def _show(form: _Form, value: Decimal) -> str:
    if value.is_finite():
        rounded = numerics.round_to(value, form.decimals)
        whole, _, fraction = numerics.show_decimal(abs(rounded)).partition(".")
        negative = rounded < 0
    else:
        whole, fraction, negative = "#" * (form.places + 1), "", value < 0 if not value.is_nan() else False
    whole = "" if whole == "0" else whole
    overflow = max(len(whole), 1) > form.places
    fraction = (fraction + "0" * form.decimals)[: form.decimals]
    if not form.fill:
        fraction = fraction[: max(len(fraction.rstrip("0")), form.kept)]
    shown = max(len(whole), form.always)
    if not shown and not form.decimals:
        shown = min(1, form.places)
    if overflow:
        whole, fraction, shown = "#" * form.places, "#" * form.decimals, form.places
    return _compose(form, whole.rjust(shown, "0"), fraction, negative=negative)


def _compose(form: _Form, whole: str, fraction: str, *, negative: bool) -> str:
    out: list[str] = []
    blank = " " if form.fill else ""
    place, decimal, after_point, signed = 0, 0, False, form.sign in {"MI", "PR"} or (form.sign and not form.sign_first)
    first = form.places - len(whole)

    def sign() -> None:
        nonlocal signed
        if not signed:
            signed = True
            plus = "+" if form.sign == "S" else blank
            out.append("-" if negative else plus)

    for mark in form.marks:
        if mark in {"9", "0"} and not after_point:
            if place >= first:
                sign()
                out.append(whole[place - first])
            else:
                out.append(blank)
            place += 1
        elif mark in {"9", "0"}:
            out.append(fraction[decimal] if decimal < len(fraction) else blank if not form.fill else "0")
            decimal += 1
        elif mark == ".":
            sign()
            after_point = True
            out.append(".")
        elif mark == ",":
            out.append("," if place > first else blank)
        elif mark == "MI":
            out.append("-" if negative else blank)
        elif mark == "S" and not form.sign_first:
            out.append("-" if negative else "+")
        elif mark == "PR":
            continue
        elif mark != "S":
            out.append(mark.strip('"') if len(mark) > 1 else mark)
    text = "".join(out)
    if form.sign != "PR":
        return text
    stripped = text.lstrip(" ")
    left, right = ("<", ">") if negative else (blank, blank)
    return text[: len(text) - len(stripped)] + left + stripped + right
