"""That there is nothing: an answer which is found where only errors can be raised."""

from __future__ import annotations

from ..wire import Answer


class Absent(Exception):
    """There is nothing that the caller may see, and the route's answer for that is `answer`."""

    def __init__(self, answer: Answer) -> None:
        super().__init__("absent")
        self.answer = answer
