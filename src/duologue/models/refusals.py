"""What providers refuse, as typed errors of their own, the same for each of them; each lists what was tried."""

from __future__ import annotations

from ..errors import CredentialsError, ModelRequestError, ModelThrottledError


class MissingCredentialsError(CredentialsError):
    """No credentials were found anywhere; the message lists where they were looked for."""

    code = "credentials_missing"


class AccessNotEnabledError(CredentialsError):
    """The credentials are good, but may not use this model."""

    code = "model_access"


class UnknownModelError(ModelRequestError):
    """The service does not know the model, or not in this region or version."""

    code = "unknown_model"


class RegionError(ModelRequestError):
    """There is no such region, or the model is not offered in it."""

    code = "region"


class QuotaError(ModelThrottledError):
    """What the account may use is used up. Trying again does not help; a rate limit, where it does, is no such error."""

    code = "quota"
    retryable = False
