"""What follows a failure is decided without a loop; the driver is tested over a scripted plane."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence

import pytest

from asyncart.errors import Conflict, Denied, NotFound, TransferError, Unavailable
from asyncart.net import retry
from asyncart.net.pace import Rate
from asyncart.net.plane import (
    AttemptError,
    Reason,
    ResponseHead,
    check_put_answer,
    check_range_head,
    public_url,
    redirected,
    status_error,
)
from asyncart.net.retry import (
    LONGEST_BACKOFF_S,
    MALFORMED_RETRIES,
    Decision,
    History,
    RetryBudget,
    Signed,
    Step,
    Transfer,
    backoff_s,
    decide,
    retry_after_s,
)


def answered(status: int, body: bytes = b"", **headers: str) -> AttemptError:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return status_error(ResponseHead(status, names), body)


TRANSIENT = {408, 409, 425, 429, 500, 502, 503, 504}
SIGN_AGAIN = {401, 403}


@pytest.mark.parametrize("status", range(300, 600))
def test_every_status_has_one_answer(status: int) -> None:
    """Transient ones are repeated, 401 and 403 signed anew once, all others are final."""
    step = decide(answered(status), History(), jitter=0.5).step
    if status in TRANSIENT:
        assert step is Step.RETRY
    elif status in SIGN_AGAIN:
        assert step is Step.RE_SIGN
        again = History(failures=1, was_re_signed=True)
        assert decide(answered(status), again, jitter=0.5).step is Step.GIVE_UP
    else:
        assert step is Step.GIVE_UP


@pytest.mark.parametrize(
    ("status", "code", "step"),
    [
        (400, "ExpiredToken", Step.RE_SIGN),
        (400, "TokenRefreshRequired", Step.RE_SIGN),
        (403, "RequestTimeTooSkewed", Step.RE_SIGN),
        (400, "RequestTimeout", Step.RETRY),
        (400, "InvalidRequest", Step.GIVE_UP),
    ],
)
def test_s3_says_more_in_its_code_than_in_the_status(status: int, code: str, step: Step) -> None:
    body = f"<Error><Code>{code}</Code></Error>".encode()
    assert decide(answered(status, body), History(), jitter=0.5).step is step


@pytest.mark.parametrize("reason", [Reason.CONNECT, Reason.RESET, Reason.STALLED])
def test_broken_connections_are_repeated_until_patience_ends(reason: Reason) -> None:
    error = AttemptError(reason, "x")
    assert decide(error, History(), jitter=0.0) == Decision(Step.RETRY, 0.0)
    assert decide(error, History(elapsed_s=120), jitter=0.0).step is Step.RETRY
    assert decide(error, History(elapsed_s=120.1), jitter=0.0).step is Step.GIVE_UP
    late = History(failures=3, elapsed_s=119.9)
    assert decide(error, late, jitter=1.0).step is Step.GIVE_UP  # it would wake up too late


def test_a_wrong_answer_gets_few_chances() -> None:
    error = AttemptError(Reason.MALFORMED, "x")
    for count in range(MALFORMED_RETRIES):
        assert decide(error, History(malformed=count), jitter=0).step is Step.RETRY
    assert decide(error, History(malformed=MALFORMED_RETRIES), jitter=0).step is Step.GIVE_UP


def test_a_certificate_is_not_tried_twice() -> None:
    error = AttemptError(Reason.TLS, "x", is_transient=False)
    assert decide(error, History(), jitter=0).step is Step.GIVE_UP


@pytest.mark.parametrize(
    ("failures", "ceiling"), [(0, 0.1), (1, 0.2), (7, 12.8), (8, 20), (999, 20)]
)
def test_back_off_is_full_jitter_below_a_doubling_ceiling(failures: int, ceiling: float) -> None:
    assert backoff_s(failures, 0.0) == 0
    assert backoff_s(failures, 1.0) == pytest.approx(ceiling)
    assert backoff_s(failures, 0.5) == pytest.approx(ceiling / 2)
    assert ceiling <= LONGEST_BACKOFF_S


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0),
        ({"retry-after": "7"}, 7),
        ({"retry-after": "-7"}, 0),
        ({"retry-after": "soon"}, 0),
        ({"retry-after": "٣"}, 3),
        ({"retry-after": "Sun, 06 Nov 1994 08:49:40 GMT"}, 0),
        (
            {
                "retry-after": "Sun, 06 Nov 1994 08:49:40 GMT",
                "date": "Sun, 06 Nov 1994 08:49:37 GMT",
            },
            3,
        ),
        (
            {
                "retry-after": "Sun, 06 Nov 1994 08:49:30 GMT",
                "date": "Sun, 06 Nov 1994 08:49:37 GMT",
            },
            0,
        ),
        ({"retry-after": "Sun, 06 Nov 1994 08:49:40 GMT", "date": "?"}, 0),
    ],
)
def test_retry_after_counts_by_the_server_s_clock(headers: dict[str, str], seconds: float) -> None:
    assert retry_after_s(headers) == seconds


def test_retry_after_is_heeded_and_ends_patience() -> None:
    assert decide(answered(503, retry_after="9"), History(), jitter=1.0).delay_s == 9
    assert decide(answered(503, retry_after="999"), History(), jitter=1.0).step is Step.GIVE_UP


def test_the_retry_budget_slows_down_instead_of_failing() -> None:
    """A burst at once, then so many per second, in order; unused time comes back up to the burst."""
    budget = RetryBudget(per_s=10, burst=3)
    assert [round(budget.reserve(100.0), 3) for _ in range(6)] == [0, 0, 0, 0.1, 0.2, 0.3]
    assert budget.reserve(100.4) == 0
    assert [round(budget.reserve(1e6), 3) for _ in range(4)] == [0, 0, 0, 0.1]


# what an answer to a range must look like


def head(status: int, **headers: str) -> ResponseHead:
    return ResponseHead(status, {k.replace("_", "-"): v for k, v in headers.items()})


@pytest.mark.parametrize(
    "answer",
    [
        head(206, content_range="bytes 5-14/100", content_length="10"),
        head(206, content_range="bytes 5-14/*", content_length="10"),
        head(206, content_range="BYTES 5-14/100"),
        head(206, content_range="bytes 5-14/100", content_encoding="identity"),
    ],
)
def test_right_answers_pass(answer: ResponseHead) -> None:
    check_range_head(answer, 5, 10)


@pytest.mark.parametrize(
    "answer",
    [
        head(200, content_length="10"),
        head(204),
        head(206),
        head(206, content_range="bytes 5-14"),
        head(206, content_range="bytes 4-13/100"),
        head(206, content_range="bytes 5-13/100"),
        head(206, content_range="bytes 5-15/100"),
        head(206, content_range="bytes */100"),
        head(206, content_range="items 5-14/100"),
        head(206, content_range="bytes 5-14/100", content_length="11"),
        head(206, content_range="bytes 5-14/100", content_length="10, 10"),
        head(206, content_range="bytes 5-14/100", content_encoding="gzip"),
        head(206, content_type="multipart/byteranges; boundary=x"),
    ],
)
def test_wrong_answers_do_not(answer: ResponseHead) -> None:
    with pytest.raises(AttemptError) as caught:
        check_range_head(answer, 5, 10)
    assert caught.value.reason is Reason.MALFORMED
    assert caught.value.received == 0


@pytest.mark.parametrize(
    ("length", "is_right"), [("10", True), ("9", False), ("11", False), (None, False)]
)
def test_a_200_is_right_only_for_the_whole(length: str | None, is_right: bool) -> None:
    answer = ResponseHead(200, {} if length is None else {"content-length": length})
    if is_right:
        check_range_head(answer, 0, 10)
    else:
        with pytest.raises(AttemptError):
            check_range_head(answer, 0, 10)


def test_success_with_an_error_document_is_none() -> None:
    check_put_answer(head(200), b"")
    check_put_answer(head(201), b"<html>Created</html>")
    with pytest.raises(AttemptError, match="SlowDown"):
        check_put_answer(head(200), b"<?xml?><Error><Code>SlowDown</Code></Error>")


def test_signatures_and_passwords_are_not_printed() -> None:
    assert public_url("https://me:pw@h:1/a/b?X-Sig=1#f") == "https://h:1/a/b"


@pytest.mark.parametrize(
    ("status", "location", "target"),
    [
        (307, "/b?x=1", "https://h/b?x=1"),
        (308, "https://other/b", "https://other/b"),
        (301, "//other/b", "https://other/b"),
        (302, "http://h/b", None),
        (303, "/b", None),
        (307, "ftp://h/b", None),
        (200, "/b", None),
        (307, "", None),
    ],
)
def test_where_redirects_lead(status: int, location: str, target: str | None) -> None:
    sent = {"Authorization": "s", "X": "1"}
    found = redirected("https://h/a", sent, head(status, location=location))
    assert (found and found[0]) == target
    if found is not None:
        assert ("Authorization" in found[1]) is found[0].startswith("https://h/")
        assert found[1]["X"] == "1"


# the driver


class Script:
    """A plane that does what it is told: an error to raise, or None to succeed."""

    def __init__(self, *steps: AttemptError | None) -> None:
        self.steps = list(steps)
        self.calls: list[tuple[int, int]] = []
        self.content = bytes(range(256)) * 4096

    async def get_range(
        self, url: str, headers: Mapping[str, str], offset: int, buffer: memoryview
    ) -> ResponseHead:
        self.calls.append((offset, len(buffer)))
        step = self.steps.pop(0) if self.steps else None
        if step is not None:
            good = self.content[offset : offset + step.received]
            buffer[: step.received] = good
            raise step
        buffer[:] = self.content[offset : offset + len(buffer)]
        return ResponseHead(206, {"etag": "e"})

    async def put(
        self, url: str, headers: Mapping[str, str], buffers: Sequence[memoryview]
    ) -> ResponseHead:
        self.calls.append((0, sum(len(view) for view in buffers)))
        step = self.steps.pop(0) if self.steps else None
        if step is not None:
            raise step
        return ResponseHead(200, {})

    async def aclose(self) -> None:
        raise AssertionError("the plane belongs to somebody else")


async def sign(why: AttemptError | None) -> Signed:
    return Signed("https://h/o?secret", {})


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waits: list[float] = []
    real = asyncio.sleep

    async def sleep(delay: float) -> None:
        waits.append(delay)
        await real(0)

    monkeypatch.setattr(retry.asyncio, "sleep", sleep)
    return waits


def broken(received: int, etag: str = "e") -> AttemptError:
    return AttemptError(Reason.RESET, "x", received=received, headers={"etag": etag})


async def test_a_get_continues_where_it_broke() -> None:
    """And the buffer is right in the end."""
    plane = Script(broken(100), broken(0), broken(70_000), broken(1))
    buffer = bytearray(200_000)
    await Transfer(plane).get_range("o", sign, 7, memoryview(buffer))
    assert plane.calls == [
        (7, 200_000),
        (107, 199_900),
        (107, 199_900),
        (70_107, 129_900),
        (70_108, 129_899),
    ]
    assert bytes(buffer) == plane.content[7:200_007]


async def test_a_get_starts_over_when_the_object_changed() -> None:
    """In the middle of a second body, at its head, or after a wrong answer."""
    for step in (broken(50, "other"), AttemptError(Reason.MALFORMED, "x")):
        plane = Script(broken(100), step)
        buffer = bytearray(1000)
        await Transfer(plane).get_range("o", sign, 0, memoryview(buffer))
        assert plane.calls == [(0, 1000), (100, 900), (0, 1000)]
    plane = Script(broken(100, "other"))
    await Transfer(plane).get_range("o", sign, 0, memoryview(buffer))
    assert plane.calls == [(0, 1000), (100, 900), (0, 1000)]


async def test_a_store_that_is_away_for_a_moment_is_waited_for_aloud(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Never with the signature of the URL."""
    monkeypatch.setattr(retry, "backoff_s", lambda failures, jitter: 1.5)
    plane = Script(AttemptError(Reason.CONNECT, "refused"), broken(0), answered(503))
    await Transfer(plane).get_range("s3://b/o", sign, 0, memoryview(bytearray(8)))
    [told] = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert told.name == "asyncart.transfer"
    said = "s3://b/o: reading failed: could not connect: refused; trying again, for up to 120 s"
    assert told.getMessage() == said
    assert "secret" not in caplog.text


async def test_progress_renews_patience() -> None:
    """A thousand breaks are fine if every one brought bytes; breaks that bring nothing are not."""
    size = 16 * retry.PROGRESS_BYTES
    plane = Script(*[broken(retry.PROGRESS_BYTES) for _ in range(15)])
    await Transfer(plane, patience_s=0.15).get_range("o", sign, 0, memoryview(bytearray(size)))
    assert len(plane.calls) == 16
    plane = Script(*[broken(1) for _ in range(100)])
    with pytest.raises(Unavailable, match="attempts"):
        await Transfer(plane, patience_s=0.5).get_range("o", sign, 0, memoryview(bytearray(size)))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (answered(404), NotFound),
        (answered(403), Denied),
        (answered(412), Conflict),
        (answered(400), TransferError),
        (AttemptError(Reason.TLS, "x", is_transient=False), Denied),
        (AttemptError(Reason.MALFORMED, "x"), TransferError),
        (AttemptError(Reason.CONNECT, "x"), Unavailable),
    ],
)
async def test_what_leaves_is_asyncart_s(error: AttemptError, kind: type[Exception]) -> None:
    """With the object's name, and without the query."""
    plane = Script(*[error] * 100)
    with pytest.raises(kind) as caught:
        await Transfer(plane, patience_s=0.01).put("s3://b/k", sign, [memoryview(b"x")])
    assert "s3://b/k" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is error


async def test_the_rate_counts_what_moved() -> None:
    """Bytes of a failed attempt that did not arrive are given back."""
    rate = Rate(1000, clock=lambda: 0.0)
    plane = Script(broken(100))
    await Transfer(plane, rate=rate).get_range("o", sign, 0, memoryview(bytearray(500)))
    assert rate.reserve(500) == 0
    assert rate.reserve(1) == 0
    assert rate.reserve(1) == pytest.approx(0.001)
