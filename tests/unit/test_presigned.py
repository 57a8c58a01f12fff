"""URLs signed by our arithmetic are those that botocore signs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from botocore import auth, awsrequest, credentials

from asyncart.stores.presigned import ONLY_NEW, Presigner

NOW = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)


def by_botocore(
    method: str,
    url: str,
    token: str | None,
    monkeypatch: pytest.MonkeyPatch,
    headers: dict[str, str] | None = None,
    **query: Any,
) -> str:
    class Fixed(auth.S3SigV4QueryAuth):  # type: ignore[misc]
        def _modify_request_before_signing(self, request: Any) -> None:
            request.context["timestamp"] = NOW.strftime(auth.SIGV4_TIMESTAMP)
            super()._modify_request_before_signing(request)

    monkeypatch.setattr(
        auth, "get_current_datetime", lambda: NOW.replace(tzinfo=None), raising=False
    )
    request = awsrequest.AWSRequest(method=method, url=url, params=query, headers=headers)
    keys = credentials.Credentials("AKIA/EXAMPLE+1", "se/cret+key", token)
    Fixed(keys, "s3", "eu-central-1", expires=900).add_auth(request)
    return str(request.prepare().url)


def parameters(url: str) -> tuple[str, dict[str, str]]:
    """Their order in the URL does not matter: it is another one in the signature anyway."""
    base, _, query = url.partition("?")
    return base, dict(pair.split("=", 1) for pair in query.split("&"))  # type: ignore[misc]


@pytest.mark.parametrize("token", [None, "to/ken+with=signs"])
@pytest.mark.parametrize(
    "base",
    ["https://bucket.s3.amazonaws.com/", "http://127.0.0.1:8333/bucket/", "http://[::1]:9/b/"],
)
@pytest.mark.parametrize("key", ["objects/ab/0123", "pre fix/ä+(1)~*", "a//b"])
@pytest.mark.parametrize("part", [0, 7])
def test_urls_are_as_botocore_signs_them(
    token: str | None, base: str, key: str, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from urllib.parse import quote

    presigner = Presigner(base, "eu-central-1", "AKIA/EXAMPLE+1", "se/cret+key", token, NOW)
    upload_id = "up/load+id="
    query: dict[str, Any] = {"partNumber": part, "uploadId": upload_id} if part else {}
    ours = presigner.url("PUT", key, 900, part_number=part, upload_id=upload_id if part else "")
    theirs = by_botocore("PUT", base + quote(key, safe="/-_.~"), token, monkeypatch, **query)
    assert parameters(ours) == parameters(theirs)


def test_a_url_may_be_for_what_is_not_there_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The condition is part of the signature."""
    presigner = Presigner(
        "http://host:1/", "eu-central-1", "AKIA/EXAMPLE+1", "se/cret+key", "t", NOW
    )
    ours = presigner.url("PUT", "key", 900, is_only_new=True)
    theirs = by_botocore("PUT", "http://host:1/key", "t", monkeypatch, dict(ONLY_NEW))
    assert parameters(ours) == parameters(theirs)
    assert parameters(ours) != parameters(presigner.url("PUT", "key", 900))
