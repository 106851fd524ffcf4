"""AWS credentials and region as the vendor's own tools find them: environment, profile, SSO, role, container, instance.

`botocore` does the finding. It blocks (it reads files, and asks a container's or an instance's service), so it runs in a thread,
within a time limit. They are looked up anew for each connection: what is refreshed reaches the next one.
"""

from __future__ import annotations

import asyncio
import difflib
import os
from datetime import UTC, datetime
from typing import Any

import msgspec

from ..errors import MissingDependencyError
from ..wire.nova_sonic import REGIONS
from .refusals import MissingCredentialsError, RegionError

#: longest wait for credentials. An instance's service that is not there is given up sooner by botocore itself
_FIND_S = 4.0


class AwsIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """What signs requests, and where they go.

    `expires_in_s`: seconds that the credentials are still good, if limited. `source`: where they were found, for people.
    """

    access_key: str
    secret_key: str
    token: str | None = None
    region: str
    expires_in_s: float | None = None
    source: str = ""


async def find_identity(*, region: str | None, profile: str | None, known_region: bool) -> AwsIdentity:
    """Credentials and region.

    Args:
        region: None: `AWS_REGION`, `AWS_DEFAULT_REGION`, the profile's, else us-east-1.
        profile: None: `AWS_PROFILE`, else the default one.
        known_region: whether the region must be one that AWS has; not so where an endpoint is given.

    Raises:
        MissingCredentialsError: with all that was tried.
        RegionError: no such region; the nearest is named.
    """
    try:
        import botocore.exceptions
    except ImportError as error:
        raise MissingDependencyError(
            "Nova Sonic needs the package botocore.", hint="Install it with: pip install 'duologue[nova-sonic]'"
        ) from error
    try:
        async with asyncio.timeout(_FIND_S):
            return await asyncio.to_thread(_find, region, profile, known_region)
    except TimeoutError:
        raise MissingCredentialsError(
            f"Looking for AWS credentials took longer than {_FIND_S:g} s.",
            hint="Give them by environment or profile, or check the service that hands them out.",
        ) from None
    except botocore.exceptions.ProfileNotFound as error:
        raise MissingCredentialsError(f"{error}.", hint="Check AWS_PROFILE, or the option profile.") from None
    except botocore.exceptions.BotoCoreError as error:
        raise MissingCredentialsError(
            f"AWS credentials could not be had: {error}", hint="Sign in again, for example with: aws sso login"
        ) from None


def _find(region: str | None, profile: str | None, known_region: bool) -> AwsIdentity:
    import botocore.session

    session = botocore.session.Session(profile=profile)
    where = (
        region
        or os.environ.get("AWS_REGION")
        or os.environ.get("AWS_DEFAULT_REGION")
        or session.get_config_variable("region")
        or "us-east-1"
    )
    if known_region:
        _check_region(session, where)
    resolver = session.get_component("credential_provider")
    credentials = session.get_credentials()
    if credentials is None:
        tried = ", ".join(_TRIED.get(name, name) for name in (provider.METHOD for provider in resolver.providers))
        raise MissingCredentialsError(
            f"There are no AWS credentials. Tried: {tried}.",
            hint="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or run: aws configure",
        )
    frozen = credentials.get_frozen_credentials()
    expiry = getattr(credentials, "_expiry_time", None)  # only refreshable credentials have one
    left = (expiry - datetime.now(UTC)).total_seconds() if isinstance(expiry, datetime) else None
    return AwsIdentity(
        access_key=frozen.access_key,
        secret_key=frozen.secret_key,
        token=frozen.token,
        region=where,
        expires_in_s=left,
        source=_TRIED.get(credentials.method, str(credentials.method)),
    )


def _check_region(session: Any, region: str) -> None:
    known = [
        name
        for partition in session.get_available_partitions()
        for name in session.get_available_regions("ec2", partition_name=partition)
    ]
    if known and region not in known:
        near = difflib.get_close_matches(region, REGIONS, n=1) or difflib.get_close_matches(region, known, n=1)
        raise RegionError(
            f"AWS has no region {region!r}.",
            hint=f"Did you mean {near[0]!r}?" if near else "Use one such as us-east-1.",
        )


#: botocore's names of its ways, for people
_TRIED = {
    "env": "environment (AWS_ACCESS_KEY_ID)",
    "assume-role": "a role of the profile",
    "assume-role-with-web-identity": "web identity (AWS_WEB_IDENTITY_TOKEN_FILE)",
    "sso": "SSO",
    "login": "aws login",
    "shared-credentials-file": "~/.aws/credentials",
    "custom-process": "a credential process",
    "config-file": "~/.aws/config",
    "ec2-credentials-file": "AWS_CREDENTIAL_FILE",
    "boto-config": "a boto configuration",
    "container-role": "the container's role",
    "iam-role": "the instance's role",
}
