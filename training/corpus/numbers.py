"""Numbers in words."""

DIGITS = "zero one two three four five six seven eight nine".split()
TEENS = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()


def spell_number(number: int) -> str:
    """British spelling without hyphens: 321 -> "three hundred and twenty one".

    Raises:
        ValueError: if `number` is outside 0..999999.
    """
    if not 0 <= number <= 999_999:
        raise ValueError(f"`number` must be between 0 and 999999, but got {number}")
    if number < 10:
        return DIGITS[number]
    if number < 20:
        return TEENS[number - 10]
    if number < 100:
        tens, ones = divmod(number, 10)
        return TENS[tens - 2] + (f" {DIGITS[ones]}" if ones else "")
    if number < 1000:
        hundreds, rest = divmod(number, 100)
        return f"{DIGITS[hundreds]} hundred" + (f" and {spell_number(rest)}" if rest else "")
    thousands, rest = divmod(number, 1000)
    joint = " and " if rest < 100 else " "
    return f"{spell_number(thousands)} thousand" + (f"{joint}{spell_number(rest)}" if rest else "")
