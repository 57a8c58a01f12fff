"""What clients did and saw, as they write it down for whoever started them."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Seen:
    """One operation on an alias of a collection, as `linear.Operation` wants it."""

    collection: str
    alias: str
    is_write: bool
    value: int
    begun_at: float
    ended_at: float


@dataclass
class Logged:
    """What one `log_artifact` came to."""

    label: str  # which content
    collection: str
    number: int
    digest: str
    begun_at: float
    ended_at: float
    attempts: int


@dataclass
class Answer:
    logged: list[Logged] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    given_up: list[str] = field(default_factory=list)  # labels of what was tried often enough
