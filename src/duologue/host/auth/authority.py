"""The host's authority: who sends a request, and whether they may.

Every refusal is a HostError with the managed service's status and words, and a record in the audit log. The order of
checks: what the request shows (one credential, readable), whether it is good, whether the runtime takes its kind, where
the page comes from, which session it is bound to. Roles come after, by :meth:`HostAuthority.authorise`.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from ...errors import StoreError
from ...store import Store
from ..types import Grant, HostError, Identity, Principal, RequestHead, Role, Route, VersionSpec
from . import errors
from .audit import HOST_TENANT, Audit
from .authorizer import AuthMode, RuntimeAuth, parse_auth
from .client_secrets import CLIENT_SECRET_PREFIX, ClientSecrets
from .credentials import Shown, find
from .fetch import Fetcher
from .jwks import Issuers
from .keys import API_KEY_PREFIX, ISSUER, Key, Keys
from .oauth import Tokens, protected_resource
from .options import AuthOptions
from .origin import check_origin, origin_of
from .sigv4 import (
    SKEW_S,
    USER_HEADER,
    FirstSessions,
    Signature,
    check_scope,
    parse_authorization,
    parse_presigned,
    payload_hash,
    session_of,
    session_signed,
    single,
    verify,
)
from .tickets import Tickets
from .vault import Vault

_log = logging.getLogger("duologue.host")

#: what a qualifier means now: `Placement.version`
Versions = Callable[[str, str, str], Awaitable[VersionSpec]]


class HostAuthority:
    """Implements :class:`duologue.host.types.Authority`.

    Args:
        store: holds keys, tickets and the audit log; read in threads, since a disk may block.
        versions: what a runtime's qualifier means now; raises HostError 404.
        fetcher: how issuers are asked (tests give one with their own certificate authority).
        clock: wall time, seconds.

    Attributes:
        refused: counts refusals by error name.
    """

    def __init__(
        self,
        store: Store,
        vault: Vault,
        audit: Audit,
        *,
        versions: Versions,
        options: AuthOptions | None = None,
        fetcher: Fetcher | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.options = options = options or AuthOptions()
        self.audit = audit
        self.keys = Keys(store, vault, audit, clock=clock)
        self.tickets = Tickets(store, clock=clock)
        self.client_secrets = ClientSecrets(store, clock=clock)
        self.issuers = Issuers(fetcher or Fetcher(), times=options.jwks)
        self.refused: dict[str, int] = {}
        self._tokens = Tokens(self.issuers, clock=clock, leeway_s=options.leeway_s)
        self._versions = versions
        self._clock = clock
        self._first = FirstSessions(sessions=options.sessions_per_signature)

    async def aclose(self) -> None:
        """End what is under way. The audit log and the store are the caller's."""
        await self.issuers.aclose()

    # -- authentication --------------------------------------------------------------------------------------------

    async def authenticate(self, head: RequestHead, route: Route, *, body_sha256: str | None = None) -> Identity:
        """Who sends a request.

        Raises:
            HostError: 400 unreadable, 401 none or a bad token, 403 a bad key, signature, ticket, origin or kind, 404 no
                such runtime (only where the credential is good, or to find whose tokens are taken), 503 no keys.
            NeedsBody: hash the body and ask again.
        """
        identity = None
        try:
            identity = await self._identify(head, route, body_sha256)
            identity = await self._placed(identity, head, route)
        except HostError as error:
            self._denied("authenticate", error, route, head.peer, identity)
            raise
        except StoreError as error:
            whose = identity.principal.tenant if identity is not None else route.tenant or "unknown"
            _log.error("a credential for tenant %s could not be checked: %s", whose, error)
            raise errors.broken() from error
        return identity

    async def _identify(self, head: RequestHead, route: Route, body_sha256: str | None) -> Identity:
        if not head.target.isascii():
            raise errors.invalid("The request target holds characters that are not encoded.")
        session = session_of(head)
        shown = find(head, route.kind)
        if shown is None:
            raise errors.missing_token(head, route)
        if shown.form in ("sigv4", "presigned"):
            identity = await self._signature(head, route, shown, session, body_sha256)
        elif shown.form == "ticket":
            identity = await self._ticket(route, shown, session, origin_of(head))
        elif route.kind == "openai" and shown.text.reveal().startswith(CLIENT_SECRET_PREFIX):
            identity = await self._client_secret(route, shown.text.reveal())
        elif shown.form == "api-key" or shown.text.reveal().startswith(API_KEY_PREFIX):
            identity = await self._key(shown.text.reveal())
        else:
            identity = await self._token(shown.text.reveal(), head, route)
        return msgspec.structs.replace(
            self._for_user(identity, head),
            subprotocol=shown.subprotocol,
            runtime=route.runtime,
            qualifier=route.qualifier,
        )

    async def _placed(self, identity: Identity, head: RequestHead, route: Route) -> Identity:
        """What depends on the runtime: whose it is, which credentials it takes, which pages may use it.

        Grants name a runtime by its id, which is never given to another one; the request may call it by its name.
        """
        origin = origin_of(head)
        tenant = identity.principal.tenant
        if route.tenant and route.tenant != tenant:
            # before anything of the other tenant's is looked at
            raise errors.not_allowed(identity.principal.id, "invoke", route.runtime)
        if not route.runtime:
            check_origin(origin, ())
            return identity
        spec = await self._versions(tenant, route.runtime, route.qualifier)
        self._check_mode(identity, self._auth(spec))
        check_origin(origin, spec.origins)
        called = tuple(
            Grant(role=grant.role, runtime=route.runtime)
            for grant in identity.grants
            if grant.runtime == spec.runtime != route.runtime
        )
        return msgspec.structs.replace(identity, grants=identity.grants + called) if called else identity

    async def _signature(
        self, head: RequestHead, route: Route, shown: Shown, session: str, body_sha256: str | None
    ) -> Identity:
        presigned = shown.form == "presigned"
        signature = parse_presigned(head) if presigned else parse_authorization(head)
        now = self._clock()
        check_scope(signature, region=route.region or self.options.region, now=now)
        _check_covered(head, signature)
        payload = payload_hash(
            head, signature, body_sha256, unsigned_allowed=self.options.unsigned_payload and head.tls
        )
        found = await asyncio.to_thread(self.keys.access, signature.access_id)
        if found is None:
            raise errors.unknown_key()
        key, secret = found
        if not verify(head, signature, secret.reveal(), payload):
            raise errors.bad_signature()
        signed = bool(session) and session_signed(head, signature)
        if session and not signed and self.options.require_signed_session:
            raise errors.bad_signature("The signature must cover the session id: sign its header, or pre-sign the URL.")
        if not signed:
            until = now + SKEW_S + (signature.expires or SKEW_S)
            if not self._first.admit(signature.value, session, until=until, now=now):
                raise errors.bad_signature(
                    "The signature was used for another session. Sign the session id, or sign anew: stock clients make "
                    "the same signature twice within a second."
                )
        identity = _of_key(key, "presigned" if presigned else "sigv4")
        return msgspec.structs.replace(identity, session=session if signed else "", signed_session=signed)

    async def _key(self, text: str) -> Identity:
        key = await asyncio.to_thread(self.keys.api, text)
        if key is None:
            raise errors.bad_token("The API key is not valid.")
        return _of_key(key, "key")

    async def _ticket(self, route: Route, shown: Shown, session: str, origin: str) -> Identity:
        ticket = await asyncio.to_thread(self.tickets.find, shown.text.reveal())
        if ticket is None:
            raise errors.denied("The ticket is unknown, spent or over. Ask for a new one with POST /connect.")
        here = (route.runtime, route.qualifier)
        if here != (ticket.runtime, ticket.qualifier) or (session and session != ticket.session):
            raise errors.denied("The ticket is for another agent or session.")
        if origin != ticket.origin:
            raise errors.denied("The ticket was given to another origin.")
        if ticket.identity.expires is not None and self._clock() >= ticket.identity.expires:
            raise errors.bad_token("The credential that the ticket was given for has expired.")
        return msgspec.structs.replace(
            ticket.identity,
            mode="ticket",
            may_act_for=False,
            session=ticket.session,
            signed_session=True,
            origin=ticket.origin,
            once=ticket.id,
        )

    async def _client_secret(self, route: Route, text: str) -> Identity:
        secret = await asyncio.to_thread(self.client_secrets.find, text)
        if secret is None:
            raise errors.bad_token("The client secret is not, or no longer, good.")
        tenant = secret.identity.principal.tenant
        wrong = errors.denied("The client secret is for another agent.")
        if route.qualifier != secret.qualifier or route.tenant not in ("", tenant):
            raise wrong
        # by its id: a name may mean another runtime by now
        if (await self._versions(tenant, route.runtime, route.qualifier)).runtime != secret.runtime:
            raise wrong
        kind, _, key = secret.identity.credential.partition(":")
        if kind in ("access", "api") and not await asyncio.to_thread(self.keys.good, key):
            raise errors.bad_token("The key that the client secret was made with is no longer good.")
        return msgspec.structs.replace(
            secret.identity,
            mode="ticket",
            grants=(Grant(role="invoke", runtime=secret.runtime),),
            may_act_for=False,
            session="",
            signed_session=False,
            preset=secret.session,
        )

    async def _token(self, token: str, head: RequestHead, route: Route) -> Identity:
        tenant = route.tenant or self.options.default_tenant
        if not tenant or not route.runtime:
            raise errors.invalid("A token says nothing of the account: name the agent by its ARN, or add accountId.")
        auth = self._auth(await self._versions(tenant, route.runtime, route.qualifier))
        try:
            return await self._of_token(token, tenant, route.runtime, auth)
        except HostError as error:
            # the challenge names where to get a token
            if error.status == 401:
                raise errors.bad_token(error.message, head, route) from None
            raise

    async def _of_token(self, token: str, tenant: str, runtime: str, auth: RuntimeAuth) -> Identity:
        if auth.jwt is None:
            raise errors.mode_mismatch(
                f"It takes no tokens; if this was to be an API key: they begin with {API_KEY_PREFIX}"
            )
        found = await self._tokens.check(token, auth.jwt)
        return Identity(
            principal=Principal(tenant=tenant, issuer=found.issuer, subject=found.subject),
            grants=(Grant(role="invoke", runtime=runtime),),
            credential=f"jwt:{hashlib.sha256(token.encode()).hexdigest()[:16]}",
            mode="oauth",
            expires=found.expires,
            scopes=found.scopes,
        )

    def _for_user(self, identity: Identity, head: RequestHead) -> Identity:
        user = single(head, USER_HEADER)
        if not user:
            return identity
        if not identity.may_act_for:
            raise errors.denied(
                f"User: {identity.principal.id} is not authorized to perform: "
                "bedrock-agentcore:InvokeAgentRuntimeForUser"
            )
        if len(user) > 1024 or not user.isprintable():
            raise errors.invalid("The user id must have 1 to 1024 printable characters.", field="runtimeUserId")
        return msgspec.structs.replace(identity, principal=msgspec.structs.replace(identity.principal, user=user))

    def _auth(self, spec: VersionSpec) -> RuntimeAuth:
        try:
            return parse_auth(
                spec.auth,
                require_audience=self.options.require_audience,
                exclusive=self.options.exclusive_modes,
            )
        except HostError as error:  # deployed under other options: not the caller's doing, nor for them to read
            _log.error("the authorizer of %s cannot be used: %s", spec.id, error)
            raise errors.broken() from None

    def _check_mode(self, identity: Identity, auth: RuntimeAuth) -> None:
        taken: dict[str, AuthMode] = {"sigv4": "sigv4", "presigned": "sigv4", "key": "key", "oauth": "oauth"}
        # a ticket was given for a credential that had passed here
        if identity.mode in taken and taken[identity.mode] not in auth.modes:
            raise errors.mode_mismatch()

    # -- authorisation ---------------------------------------------------------------------------------------------

    def authorise(self, identity: Identity, role: Role, tenant: str, runtime: str) -> None:
        """Raise HostError 403 unless `identity` has `role` on a runtime ("*": all of them) of its own tenant."""
        if identity.principal.tenant == tenant and identity.may(role, runtime):
            return
        error = errors.not_allowed(identity.principal.id, role, runtime)
        self.refused[error.type] = self.refused.get(error.type, 0) + 1
        self.audit.record(
            identity.principal.tenant,
            "authorise",
            outcome="denied",
            actor=identity.principal.id,
            credential=identity.credential,
            subject=f"{tenant}/{runtime}",
            reason=role,
        )
        raise error

    async def refresh(self, identity: Identity, token: str) -> Identity:
        """A newer token, or another API key, for an open call.

        The issuer and the subject stay, scopes and grants are those that both credentials have.

        Raises:
            HostError: 401 it is not good, 403 it is somebody else's.
        """
        try:
            return await self._refresh(identity, token)
        except HostError as error:
            route = Route(kind="ws", tenant=identity.principal.tenant, runtime=identity.runtime)
            self._denied("refresh", error, route, "", identity)
            raise

    async def _refresh(self, identity: Identity, token: str) -> Identity:
        principal = identity.principal
        if principal.issuer == ISSUER:
            fresh = await self._key(token)
        else:
            auth = self._auth(await self._versions(principal.tenant, identity.runtime, identity.qualifier))
            fresh = await self._of_token(token, principal.tenant, identity.runtime, auth)
        if msgspec.structs.replace(principal, user="") != fresh.principal:
            raise errors.denied("The new credential is of another issuer or subject.")
        return msgspec.structs.replace(
            identity,
            credential=fresh.credential,
            expires=fresh.expires,
            scopes=tuple(scope for scope in fresh.scopes if scope in identity.scopes),
            grants=tuple(grant for grant in identity.grants if fresh.may(grant.role, grant.runtime)),
        )

    # -- tickets ---------------------------------------------------------------------------------------------------

    async def ticket(
        self, identity: Identity, *, tenant: str, runtime: str, qualifier: str, session: str, origin: str
    ) -> str:
        """A ticket of 30 s for one WebSocket of one session, from one Origin ("": from no page).

        Raises:
            HostError: 403, the identity may not use the runtime, or came by a ticket itself.
        """
        self.authorise(identity, "invoke", tenant, runtime)
        if identity.mode == "ticket":
            raise errors.denied("A ticket gives no tickets.")
        return await asyncio.to_thread(
            self.tickets.make,
            identity,
            tenant=tenant,
            runtime=runtime,
            qualifier=qualifier,
            session=session,
            origin=origin,
        )

    async def client_secret(
        self, identity: Identity, *, tenant: str, runtime: str, qualifier: str, session: str, seconds: float
    ) -> tuple[str, float]:
        """A secret for the OpenAI wire of one runtime, never longer good than the credential, and its end, Unix time.

        Raises:
            HostError: 403, the identity may not use the runtime, or came by a ticket or a client secret itself; 404, there is
                no such runtime; 503, there are too many.
        """
        self.authorise(identity, "invoke", tenant, runtime)
        if identity.mode == "ticket":
            raise errors.denied("A ticket gives no client secrets.")
        spec = await self._versions(tenant, runtime, qualifier)
        try:
            return await asyncio.to_thread(
                self.client_secrets.make,
                identity,
                tenant=tenant,
                runtime=spec.runtime,
                qualifier=qualifier,
                session=session,
                seconds=seconds,
            )
        except StoreError as error:
            _log.error("a client secret of %s/%s could not be made: %s", tenant, spec.runtime, error)
            raise HostError(
                503,
                "ServiceUnavailableException",
                "No client secret can be made now.",
                headers=(("Retry-After", "30"),),
            ) from error

    async def spend(self, identity: Identity) -> None:
        """Use up a ticket as its request is admitted.

        Raises:
            HostError: 403, another request spent it, or its time is over.
        """
        if identity.once and not await asyncio.to_thread(self.tickets.spend, identity.once):
            error = errors.denied("The ticket is unknown, spent or over. Ask for a new one with POST /connect.")
            route = Route(kind="ws", tenant=identity.principal.tenant, runtime=identity.runtime)
            self._denied("spend", error, route, "", identity)
            raise error

    # -- metadata --------------------------------------------------------------------------------------------------

    async def protected_resource(self, head: RequestHead, route: Route) -> dict[str, Any]:
        """The runtime's protected-resource metadata, for anybody.

        Raises:
            HostError: 404 the runtime takes no tokens, 503 its issuer does not answer.
        """
        tenant = route.tenant or self.options.default_tenant
        auth = self._auth(await self._versions(tenant, route.runtime, route.qualifier)) if tenant else None
        if auth is None or auth.jwt is None:
            raise HostError(404, "ResourceNotFoundException", "This agent takes no OAuth tokens.")
        return await protected_resource(errors.resource_url(head, route), auth.jwt, self.issuers)

    def _denied(self, action: str, error: HostError, route: Route, peer: str, identity: Identity | None = None) -> None:
        self.refused[error.type] = self.refused.get(error.type, 0) + 1
        if error.status not in (401, 403):
            return
        self.audit.record(
            # a caller that nobody knows only claims a tenant
            identity.principal.tenant if identity else HOST_TENANT,
            action,
            outcome="denied",
            actor=identity.principal.id if identity else "",
            credential=identity.credential if identity else "",
            subject=f"{route.tenant}/{route.runtime}",
            reason=error.type,
            peer=peer,
        )


def _of_key(key: Key, mode: Any) -> Identity:
    return Identity(
        principal=key.principal,
        grants=key.grants,
        credential=f"{key.kind}:{key.id}",
        mode=mode,
        expires=key.expires,
        may_act_for=key.for_users,
    )


def _check_covered(head: RequestHead, signature: Signature) -> None:
    """Headers that say who acts must be signed, or whoever replays the request says it."""
    for name in ("x-amz-security-token", USER_HEADER):
        if single(head, name) and name not in signature.signed:
            raise errors.incomplete_signature(f"'{name}' must be a signed header.")
