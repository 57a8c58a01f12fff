"""What a client and `asyncart server` say to each other: HTTP under `/api/v1`, JSON.

`ROUTES` is the whole language. Each route has one request, a struct that holds everything that is said:
its fields that the path names travel in the path, those of a GET in the query, all others as one JSON
object in the body. Each has one answer, also a struct. The client encodes and the server decodes by the
same table, and the OpenAPI document is made from it, so that the three cannot disagree.

JSON as msgspec writes it: bytes are base64, extents and chunks are arrays. Lists that may be long come in
pages: `after` is what the page before gave as `next`, which is null at the end.

An answer of 400 or above is a `Failure`; `code` is that of the class in `errors`, which the client raises.
Every answer carries `X-Request-Id`. A write may carry `Idempotency-Key`: the same key from the same
principal again gives the first answer again. Most writes need none: they name what they make (session,
object, draft, run), and again is the same.

Several calls may travel together (`Batch`): they are carried out in order, each by its own rules, until one
fails. So what a small artifact has to say fits into a few round trips.
"""

from __future__ import annotations

import enum
from typing import Any, Literal, NamedTuple

import msgspec

from .model import (
    Chunk,
    CollectionInfo,
    Content,
    Extent,
    ManifestLocation,
    PendingUpload,
    RunInfo,
    RunState,
    UploadPart,
    VersionInfo,
)

PREFIX = "/api/v1"
MAX_DIGESTS = 10_000  # of one question
MAX_URLS = 1000  # of one request
MAX_KEYS = (
    1000  # objects that the store is asked about for one request; it may take a call for each
)
MAX_COMPLAINTS = 100  # objects of one `mark_damaged`: each of them is read
MAX_PAGE = 1000
MAX_CALLS = 64  # of one batch


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a client says."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What the server says; a newer one may say more."""


class Done(Answer, frozen=True, kw_only=True):
    """It is so now."""


class Failure(Answer, frozen=True, kw_only=True):
    """`code` is that of a class in `errors`; `message` says what failed, on what, why, what to do next."""

    code: str
    message: str
    request_id: str = ""
    notes: list[str] = []


# --- who, and about the server ---


class AboutMe(Request, frozen=True, kw_only=True):
    pass


class Me(Answer, frozen=True, kw_only=True):
    """`entity` is where this principal's names live unless they say otherwise."""

    user: str
    entity: str
    key_id: str
    scopes: list[str]
    project: str | None = None  # "entity/project" of a key that is bound to one
    server_version: str
    store: str  # for people: where the objects are
    part_bytes: int


# --- runs and lineage ---


class CreateRun(Request, frozen=True, kw_only=True):
    run: RunInfo


class FinishRun(Request, frozen=True, kw_only=True):
    run_id: str
    state: RunState


class GetRun(Request, frozen=True, kw_only=True):
    run_id: str


class RunAnswer(Answer, frozen=True, kw_only=True):
    run: RunInfo


class Runs(Answer, frozen=True, kw_only=True):
    runs: list[RunInfo]


class RecordUse(Request, frozen=True, kw_only=True):
    run_id: str
    version_id: str


class RunInputs(Request, frozen=True, kw_only=True):
    run_id: str


class RunOutputs(Request, frozen=True, kw_only=True):
    run_id: str


class UsedBy(Request, frozen=True, kw_only=True):
    version_id: str


class LoggedBy(Request, frozen=True, kw_only=True):
    version_id: str


# --- sessions: the lease under which one writer uploads ---


class BeginSession(Request, frozen=True, kw_only=True):
    """`session_id`: 32 hex digits of the client's choice; again is the same session.

    `owner` is what `catalog.owner.this_process` says at the client: a server on the same machine need not
    wait for the lease of a process that is gone.
    """

    session_id: str
    entity: str
    project: str | None = None
    owner: str = ""


class RenewSession(Request, frozen=True, kw_only=True):
    session_id: str


class EndSession(Request, frozen=True, kw_only=True):
    session_id: str


class StoredContents(Request, frozen=True, kw_only=True):
    session_id: str
    digests: list[bytes]


class Contents(Answer, frozen=True, kw_only=True):
    contents: list[Content]


class StoredChunks(Request, frozen=True, kw_only=True):
    session_id: str
    digests: list[bytes]


class Chunks(Answer, frozen=True, kw_only=True):
    """Those chunks that are stored, by their position in the question."""

    chunks: list[tuple[int, Extent]]


class RegisterUpload(Request, frozen=True, kw_only=True):
    """`want_url`: answer with a URL to PUT the whole object to, which saves a round trip."""

    session_id: str
    object_id: str
    token: str = ""
    resume_key: str = ""
    want_url: bool = False


class Registered(Answer, frozen=True, kw_only=True):
    url: SignedUrl | None = None


class NoteParts(Request, frozen=True, kw_only=True):
    session_id: str
    object_id: str
    parts: list[UploadPart]


class AdoptUpload(Request, frozen=True, kw_only=True):
    session_id: str
    resume_key: str


class Adopted(Answer, frozen=True, kw_only=True):
    upload: PendingUpload | None = None


class ForgetUpload(Request, frozen=True, kw_only=True):
    object_id: str


class NewObject(msgspec.Struct, frozen=True, kw_only=True):
    """An object whose bytes are in the store, and (chunk, offset) of the large files inside it."""

    object_id: str
    size: int
    chunks: list[tuple[Chunk, int]] = []


class AddStored(Request, frozen=True, kw_only=True):
    session_id: str
    objects: list[NewObject]
    contents: list[Content]


class MarkDamaged(Request, frozen=True, kw_only=True):
    """The server reads them itself before it believes it."""

    object_ids: list[str]


# --- versions ---


class FindVersion(Request, frozen=True, kw_only=True):
    entity: str
    project: str
    collection: str
    digest: bytes


class Found(Answer, frozen=True, kw_only=True):
    version: VersionInfo | None = None


class CommitVersion(Request, frozen=True, kw_only=True):
    """`draft_id` makes it idempotent; without `manifest`: "I believe that this digest is there already"."""

    session_id: str
    draft_id: str
    entity: str
    project: str
    collection: str
    type: str
    digest: bytes
    size: int
    entry_count: int
    manifest: ManifestLocation | None = None
    object_ids: list[str] = []
    description: str | None = None
    metadata: dict[str, Any] = {}
    aliases: list[str] = []
    tags: list[str] = []
    run_id: str | None = None
    ttl_s: float | None = None


class CommitAnswer(Answer, frozen=True, kw_only=True):
    version: VersionInfo
    is_new: bool


class Resolve(Request, frozen=True, kw_only=True):
    """`selector` is an alias or `vN`; `urls`: also sign the manifest and the objects of the version, as
    many as one answer may hold, so that a download needs no further request."""

    entity: str
    project: str
    collection: str
    selector: str
    urls: bool = False


class Resolved(Answer, frozen=True, kw_only=True):
    version: VersionInfo
    urls: list[SignedUrl] = []


class GetVersion(Request, frozen=True, kw_only=True):
    version_id: str


class VersionAnswer(Answer, frozen=True, kw_only=True):
    version: VersionInfo


class ListVersions(Request, frozen=True, kw_only=True):
    """Live versions, newest first."""

    entity: str
    project: str
    collection: str
    after: int | None = None
    limit: int = MAX_PAGE


class Versions(Answer, frozen=True, kw_only=True):
    versions: list[VersionInfo]
    next: int | None = None


class RunVersions(Answer, frozen=True, kw_only=True):
    versions: list[VersionInfo]


class ListCollections(Request, frozen=True, kw_only=True):
    """Sorted by project and name; `after` is "project/name"."""

    entity: str
    project: str | None = None
    type: str | None = None
    after: str | None = None
    limit: int = MAX_PAGE


class Collections(Answer, frozen=True, kw_only=True):
    collections: list[CollectionInfo]
    next: str | None = None


class UpdateVersion(Request, frozen=True, kw_only=True):
    """What is not given stays. Aliases that are added move here; those that are removed are given up if they
    point here. `latest` stays where it is.

    A time to live (`ttl_s`) needs the rights that deleting needs; null, for ever, does not.
    """

    version_id: str
    description: str | msgspec.UnsetType | None = msgspec.UNSET
    metadata: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET
    add_aliases: list[str] | msgspec.UnsetType = msgspec.UNSET
    remove_aliases: list[str] | msgspec.UnsetType = msgspec.UNSET
    tags: list[str] | msgspec.UnsetType = msgspec.UNSET
    ttl_s: float | msgspec.UnsetType | None = msgspec.UNSET


class SetAlias(Request, frozen=True, kw_only=True):
    """With `if_current`: only if the alias points to that number now (null: to nothing)."""

    version_id: str
    alias: str
    if_current: int | msgspec.UnsetType | None = msgspec.UNSET


class RemoveAlias(Request, frozen=True, kw_only=True):
    entity: str
    project: str
    collection: str
    alias: str


class DeleteVersion(Request, frozen=True, kw_only=True):
    version_id: str
    delete_aliases: bool = False


class DeleteCollection(Request, frozen=True, kw_only=True):
    """All its versions, and the name. With `expected`: only if these numbers are all that it has."""

    entity: str
    project: str
    collection: str
    delete_aliases: bool = False
    expected: list[int] | None = None
    dry_run: bool = False


class PruneVersions(Request, frozen=True, kw_only=True):
    """Delete what the rules do not keep: see `catalog.protocol.Retention`. With `expected`: only if it is the
    versions of these numbers."""

    entity: str
    project: str
    collection: str
    keep_last: int | None = None
    older_than_s: float | None = None
    keep_aliased: bool = True
    expected: list[int] | None = None
    dry_run: bool = False


class Deleted(Answer, frozen=True, kw_only=True):
    """Newest first; with `dry_run`, what would have been."""

    versions: list[VersionInfo]


class CollectGarbage(Request, frozen=True, kw_only=True):
    """`compact`: also copy what is alive of objects that are mostly dead, so that these can go."""

    dry_run: bool = False
    compact: bool = True


class Garbage(Answer, frozen=True, kw_only=True):
    """See `aio.collect.GarbageReport`."""

    report: dict[str, Any]


# --- bytes ---


class UrlMethod(enum.StrEnum):
    GET = "GET"
    PUT = "PUT"


class SignedUrl(msgspec.Struct, frozen=True, kw_only=True):
    """A URL that needs no credentials. For a part of an upload, `part` is its index, else None.

    `headers` have to be sent with the request: they are signed, too. `ttl_s` counts from the answer.
    """

    object_id: str
    method: UrlMethod
    url: str
    headers: dict[str, str] = {}
    part: int | None = None
    ttl_s: float

    def __repr__(self) -> str:
        return f"SignedUrl(object_id={self.object_id!r}, method={self.method!r}, url=...)"


class WantedUrl(msgspec.Struct, frozen=True, kw_only=True):
    """To PUT, the object must be registered under a session of ours.

    A part needs the upload's token, and its offset in the object (some stores put it there at once).
    """

    object_id: str
    method: UrlMethod
    part: int | None = None
    token: str = ""
    offset: int = 0


class SignUrls(Request, frozen=True, kw_only=True):
    wanted: list[WantedUrl]


class SignedUrls(Answer, frozen=True, kw_only=True):
    """In the order of the request."""

    urls: list[SignedUrl]


class ObjectSizes(Request, frozen=True, kw_only=True):
    object_ids: list[str]


class Sizes(Answer, frozen=True, kw_only=True):
    sizes: dict[str, int]


class BeginObjectUpload(Request, frozen=True, kw_only=True):
    """Begin sending the object in parts."""

    object_id: str
    size_hint: int | None = None


class ObjectUpload(Answer, frozen=True, kw_only=True):
    """`parts`: (index, size, ETag) of those that the store has."""

    token: str
    parts: list[tuple[int, int, str]] = []


class ResumeObjectUpload(Request, frozen=True, kw_only=True):
    """With an empty token: the newest upload of that object, whose token got lost."""

    object_id: str
    token: str = ""


class Resumed(Answer, frozen=True, kw_only=True):
    upload: ObjectUpload | None = None


class CompleteObjectUpload(Request, frozen=True, kw_only=True):
    """`etags`: what the store answered to each part, in order."""

    object_id: str
    token: str
    size: int
    etags: list[str]
    sizes: list[int]


class AbortObjectUpload(Request, frozen=True, kw_only=True):
    object_id: str
    token: str


class DeleteObjects(Request, frozen=True, kw_only=True):
    """Objects of our own sessions that were registered and never became stored."""

    object_ids: list[str]


# --- who may what: users, teams, roles, API keys, protected aliases, the audit log ---


class Scope(enum.StrEnum):
    """What an API key may be used for, at most; a role is needed besides."""

    READ = "read"
    WRITE = "write"
    ALIAS = "alias"
    DELETE = "delete"
    ADMIN = "admin"


class Role(enum.StrEnum):
    """What a user may do in an entity or a project; each one may do all that those before it may."""

    VIEWER = "viewer"
    WRITER = "writer"
    MAINTAINER = "maintainer"
    ADMIN = "admin"

    @property
    def rank(self) -> int:
        return _RANKS[self]

    def covers(self, least: Role) -> bool:
        return self.rank >= least.rank


_RANKS = {role: rank for rank, role in enumerate(Role)}


class User(msgspec.Struct, frozen=True, kw_only=True):
    """`is_admin`: of the server. A user's name is also that of the entity of their own."""

    name: str
    is_admin: bool
    is_disabled: bool
    created_at: float


class CreateUser(Request, frozen=True, kw_only=True):
    name: str
    is_admin: bool = False


class UserAnswer(Answer, frozen=True, kw_only=True):
    user: User


class UpdateUser(Request, frozen=True, kw_only=True):
    """What is not given stays. The keys of a disabled user are refused until the user is enabled."""

    user: str
    is_admin: bool | None = None
    is_disabled: bool | None = None


class ListUsers(Request, frozen=True, kw_only=True):
    """Sorted by name."""

    after: str | None = None
    limit: int = MAX_PAGE


class Users(Answer, frozen=True, kw_only=True):
    users: list[User]
    next: str | None = None


class CreateTeam(Request, frozen=True, kw_only=True):
    """A team is an entity with members. Users and teams share their names."""

    name: str


class ListTeams(Request, frozen=True, kw_only=True):
    """Those that the caller belongs to; all of them for an administrator of the server."""

    after: str | None = None
    limit: int = MAX_PAGE


class Team(msgspec.Struct, frozen=True, kw_only=True):
    """`role` is that of the caller."""

    name: str
    role: Role


class Teams(Answer, frozen=True, kw_only=True):
    teams: list[Team]
    next: str | None = None


class Granted(msgspec.Struct, frozen=True, kw_only=True):
    """A role of a user: in the whole entity, or in one project of it."""

    user: str
    role: Role
    project: str | None = None


class SetMember(Request, frozen=True, kw_only=True):
    entity: str
    user: str
    role: Role


class RemoveMember(Request, frozen=True, kw_only=True):
    """The roles that the user has in single projects of the entity end too."""

    entity: str
    user: str


class ListMembers(Request, frozen=True, kw_only=True):
    entity: str


class Roles(Answer, frozen=True, kw_only=True):
    roles: list[Granted]


class SetProjectRole(Request, frozen=True, kw_only=True):
    """Raises what a member may do there, or lets in a user who is not in the team."""

    entity: str
    project: str
    user: str
    role: Role


class RemoveProjectRole(Request, frozen=True, kw_only=True):
    entity: str
    project: str
    user: str


class ListProjectRoles(Request, frozen=True, kw_only=True):
    entity: str
    project: str


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """An API key, without what is secret about it. `project` is "entity/project"."""

    id: str
    user: str
    name: str
    scopes: list[Scope]
    project: str | None
    created_at: float
    expires_at: float | None
    revoked_at: float | None
    used_on: str | None  # the last day, UTC


class CreateKey(Request, frozen=True, kw_only=True):
    """For the caller, unless `user` says otherwise. A key never may more than the one that makes it.

    With `entity` and `project`, it may be used there only.
    """

    user: str | None = None
    name: str = ""
    scopes: list[Scope]
    entity: str | None = None
    project: str | None = None
    expires_in_s: float | None = None


class NewKey(Answer, frozen=True, kw_only=True):
    """`text` is the key itself, shown this once."""

    key: Key
    text: str

    def __repr__(self) -> str:
        return f"NewKey(key={self.key!r}, text=...)"


class ListKeys(Request, frozen=True, kw_only=True):
    """Those of the caller, unless `user` says otherwise; the newest first."""

    user: str | None = None


class Keys(Answer, frozen=True, kw_only=True):
    keys: list[Key]


class RevokeKey(Request, frozen=True, kw_only=True):
    key_id: str


class ProtectedAlias(msgspec.Struct, frozen=True, kw_only=True):
    """`pattern` may hold `*` and `?`; without `collection`, in all collections of the project."""

    collection: str | None
    pattern: str


class ProtectAlias(Request, frozen=True, kw_only=True):
    """Aliases that match are moved and removed by maintainers only. `latest` cannot be protected."""

    entity: str
    project: str
    collection: str | None = None
    pattern: str


class UnprotectAlias(Request, frozen=True, kw_only=True):
    entity: str
    project: str
    collection: str | None = None
    pattern: str


class ListProtectedAliases(Request, frozen=True, kw_only=True):
    entity: str
    project: str


class ProtectedAliases(Answer, frozen=True, kw_only=True):
    patterns: list[ProtectedAlias]


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """Who did what, on what, when. `detail` holds what the request said, but for bulk and secrets."""

    id: int
    at: float
    user: str
    key_id: str
    request_id: str
    action: str
    entity: str | None
    project: str | None
    subject: str
    detail: dict[str, Any]


class ListAudit(Request, frozen=True, kw_only=True):
    """The newest first. Without `entity`: of the whole server, for its administrators."""

    entity: str | None = None
    project: str | None = None
    after: int | None = None
    limit: int = MAX_PAGE


class Audit(Answer, frozen=True, kw_only=True):
    entries: list[AuditEntry]
    next: int | None = None


# --- several calls at once ---


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """`name` of a route, and its whole request as one JSON object."""

    name: str
    request: msgspec.Raw


class Batch(Request, frozen=True, kw_only=True):
    calls: list[Call]


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """Exactly one of the two is not null."""

    answer: msgspec.Raw = msgspec.Raw(b"null")
    failure: Failure | None = None


class BatchAnswer(Answer, frozen=True, kw_only=True):
    """In the order of the calls; it ends with the first failure."""

    outcomes: list[Outcome]


# --- the table ---

Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]


class Route(NamedTuple):
    """`path` is below PREFIX; its `{fields}` are fields of the request."""

    name: str
    method: Method
    path: str
    request: type[Request]
    answer: type[Answer]


_COLLECTION = "/projects/{entity}/{project}/collections/{collection}"
_VERSION = "/versions/{version_id}"
_SESSION = "/sessions/{session_id}"
_OBJECT = "/objects/{object_id}"
_PROJECT = "/projects/{entity}/{project}"

ROUTES: dict[str, Route] = {
    route.name: route
    for route in (
        Route("about_me", "GET", "/me", AboutMe, Me),
        Route("create_run", "POST", "/runs", CreateRun, Done),
        Route("get_run", "GET", "/runs/{run_id}", GetRun, RunAnswer),
        Route("finish_run", "POST", "/runs/{run_id}/finish", FinishRun, Done),
        Route("record_use", "PUT", "/runs/{run_id}/inputs/{version_id}", RecordUse, Done),
        Route("run_inputs", "GET", "/runs/{run_id}/inputs", RunInputs, RunVersions),
        Route("run_outputs", "GET", "/runs/{run_id}/outputs", RunOutputs, RunVersions),
        Route("used_by", "GET", f"{_VERSION}/used-by", UsedBy, Runs),
        Route("logged_by", "GET", f"{_VERSION}/logged-by", LoggedBy, Runs),
        Route("begin_session", "PUT", _SESSION, BeginSession, Done),
        Route("renew_session", "POST", f"{_SESSION}/renew", RenewSession, Done),
        Route("end_session", "DELETE", _SESSION, EndSession, Done),
        Route("stored_contents", "POST", f"{_SESSION}/contents/query", StoredContents, Contents),
        Route("stored_chunks", "POST", f"{_SESSION}/chunks/query", StoredChunks, Chunks),
        Route(
            "register_upload",
            "PUT",
            f"{_SESSION}/uploads/{{object_id}}",
            RegisterUpload,
            Registered,
        ),
        Route("adopt_upload", "POST", f"{_SESSION}/uploads/adopt", AdoptUpload, Adopted),
        Route("note_parts", "POST", f"{_SESSION}/uploads/{{object_id}}/parts", NoteParts, Done),
        Route("forget_upload", "DELETE", "/uploads/{object_id}", ForgetUpload, Done),
        Route("add_stored", "POST", f"{_SESSION}/stored", AddStored, Done),
        Route("commit_version", "POST", f"{_SESSION}/versions", CommitVersion, CommitAnswer),
        Route("find_version", "POST", f"{_COLLECTION}/versions/find", FindVersion, Found),
        Route("resolve", "GET", f"{_COLLECTION}/versions/{{selector}}", Resolve, Resolved),
        Route("list_versions", "GET", f"{_COLLECTION}/versions", ListVersions, Versions),
        Route("remove_alias", "DELETE", f"{_COLLECTION}/aliases/{{alias}}", RemoveAlias, Done),
        Route("delete_collection", "DELETE", _COLLECTION, DeleteCollection, Deleted),
        Route("prune_versions", "POST", f"{_COLLECTION}/prune", PruneVersions, Deleted),
        Route(
            "list_collections",
            "GET",
            "/entities/{entity}/collections",
            ListCollections,
            Collections,
        ),
        Route("get_version", "GET", _VERSION, GetVersion, VersionAnswer),
        Route("update_version", "PATCH", _VERSION, UpdateVersion, VersionAnswer),
        Route("delete_version", "DELETE", _VERSION, DeleteVersion, Done),
        Route("set_alias", "PUT", f"{_VERSION}/aliases/{{alias}}", SetAlias, Done),
        Route("mark_damaged", "POST", "/objects/damaged", MarkDamaged, Done),
        Route("object_sizes", "POST", "/objects/sizes", ObjectSizes, Sizes),
        Route("sign_urls", "POST", "/objects/urls", SignUrls, SignedUrls),
        Route("delete_objects", "POST", "/objects/delete", DeleteObjects, Done),
        Route("begin_object_upload", "POST", f"{_OBJECT}/upload", BeginObjectUpload, ObjectUpload),
        Route(
            "resume_object_upload", "POST", f"{_OBJECT}/upload/resume", ResumeObjectUpload, Resumed
        ),
        Route(
            "complete_object_upload",
            "POST",
            f"{_OBJECT}/upload/complete",
            CompleteObjectUpload,
            Done,
        ),
        Route("abort_object_upload", "POST", f"{_OBJECT}/upload/abort", AbortObjectUpload, Done),
        Route("collect_garbage", "POST", "/garbage/collect", CollectGarbage, Garbage),
        Route("list_users", "GET", "/users", ListUsers, Users),
        Route("create_user", "POST", "/users", CreateUser, UserAnswer),
        Route("update_user", "PATCH", "/users/{user}", UpdateUser, UserAnswer),
        Route("list_teams", "GET", "/teams", ListTeams, Teams),
        Route("create_team", "POST", "/teams", CreateTeam, Done),
        Route("list_members", "GET", "/entities/{entity}/members", ListMembers, Roles),
        Route("set_member", "PUT", "/entities/{entity}/members/{user}", SetMember, Done),
        Route("remove_member", "DELETE", "/entities/{entity}/members/{user}", RemoveMember, Done),
        Route("list_project_roles", "GET", f"{_PROJECT}/roles", ListProjectRoles, Roles),
        Route("set_project_role", "PUT", f"{_PROJECT}/roles/{{user}}", SetProjectRole, Done),
        Route(
            "remove_project_role", "DELETE", f"{_PROJECT}/roles/{{user}}", RemoveProjectRole, Done
        ),
        Route("list_keys", "GET", "/keys", ListKeys, Keys),
        Route("create_key", "POST", "/keys", CreateKey, NewKey),
        Route("revoke_key", "DELETE", "/keys/{key_id}", RevokeKey, Done),
        Route(
            "list_protected_aliases",
            "GET",
            f"{_PROJECT}/protected-aliases",
            ListProtectedAliases,
            ProtectedAliases,
        ),
        Route("protect_alias", "POST", f"{_PROJECT}/protected-aliases", ProtectAlias, Done),
        Route(
            "unprotect_alias",
            "POST",
            f"{_PROJECT}/protected-aliases/remove",
            UnprotectAlias,
            Done,
        ),
        Route("list_audit", "GET", "/audit", ListAudit, Audit),
        Route("batch", "POST", "/batch", Batch, BatchAnswer),
    )
}
