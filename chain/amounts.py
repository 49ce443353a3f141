"""Amounts of credit: their unit, and how people read them."""

CREDIT = 1_000_000
"""Micro-credits in a credit."""


def format_credits(amount: int) -> str:
    """An amount of micro-credits for people, in credits; exact."""
    whole, rest = divmod(abs(amount), CREDIT)
    return f"{'-' if amount < 0 else ''}{whole:,}.{rest:06}"


def format_decimal(amount: int) -> str:
    """An amount of micro-credits for programs that read numbers, in credits; exact, and without separators."""
    return format_credits(amount).replace(",", "")
