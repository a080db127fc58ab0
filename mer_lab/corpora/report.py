"""What an importer did, found and left out, in sentences that can be printed."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Report:
    """Told to the user after an import; nothing is skipped without a line here.

    Attributes:
        notes: what was done, in order.
        warnings: what differs from the published corpus or was left out.
        counts: the same numbers for programs.
    """

    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    counts: dict[str, object] = field(default_factory=dict)

    def __str__(self) -> str:
        return "\n".join([*self.notes, *(f"WARNING: {w}" for w in self.warnings)])


def some(items: list[str], show: int = 3) -> str:
    """The first items of a list, and how many more there are: ``"a, b, c and 7 more"``."""
    rest = len(items) - show
    return ", ".join(items[:show]) + (f" and {rest} more" if rest > 0 else "")
