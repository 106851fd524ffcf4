"""What can go wrong with Nova Sonic, as typed errors that say what to do."""

from __future__ import annotations

from ..errors import (
    CredentialsError,
    ModelConnectionError,
    ModelError,
    ModelRequestError,
    ModelThrottledError,
    ProtocolError,
)
from ..wire.nova_sonic import REGIONS, StreamException, UnmodelledError
from .transport import TransportClosedError

_OFFERED = f"It is offered in {', '.join(REGIONS)} (and perhaps elsewhere by now)."


class MissingCredentialsError(CredentialsError):
    """No AWS credentials were found anywhere; the message lists where they were looked for."""

    code = "credentials_missing"


class AccessNotEnabledError(CredentialsError):
    """The credentials are good, but may not use this model."""

    code = "model_access"


class UnknownModelError(ModelRequestError):
    """The service does not know the model, or not in this region."""

    code = "unknown_model"


class RegionError(ModelRequestError):
    """There is no such region, or the model is not offered in it."""

    code = "region"


def error_of_name(name: str, text: str, *, model: str, region: str) -> ModelError:
    """The typed error for an exception of the service. `name` as in `x-amzn-errortype` or a frame, in any case."""
    kind = name.split(":")[0].rsplit("#", 1)[-1].lower()
    what = f"Nova Sonic: {text or name} ({name})."
    match kind:
        case "throttlingexception" | "toomanyrequestsexception":
            return ModelThrottledError(what, hint="Try later, or ask AWS for more quota.")
        case "servicequotaexceededexception":
            return ModelThrottledError(what, hint="Ask AWS for more quota; connections count as well as requests.")
        case "resourcenotfoundexception":
            return UnknownModelError(what, hint=f"Check the model id {model!r} and the region {region!r}. {_OFFERED}")
        case "accessdeniedexception":
            return AccessNotEnabledError(
                what,
                hint=f"Enable access to {model} for this account in the Bedrock console ({region}), and allow "
                "bedrock:InvokeModelWithBidirectionalStream to this identity.",
            )
        case (
            "unrecognizedclientexception"
            | "invalidsignatureexception"
            | "expiredtokenexception"
            | "missingauthenticationtokenexception"
            | "incompletesignatureexception"
            | "invalidclienttokenid"
        ):
            return CredentialsError(what, hint="The AWS credentials are wrong or have expired; renew them.")
        case "validationexception":
            if "InternalErrorCode=53" in text:  # 531, 532: nothing was heard for too long
                return ModelConnectionError(what)
            if "model identifier" in text.lower():
                hint = f"Check the model id {model!r} and the region {region!r}. {_OFFERED}"
                return UnknownModelError(what, hint=hint)
            if "instability" in text.lower():
                return ModelConnectionError(what)
            return ModelRequestError(what, hint="Check instructions, tools and history.")
    # Timeouts, internal errors, models that are not ready, and what nobody has named: another connection may do.
    return ModelConnectionError(what)


def error_of(error: BaseException, *, model: str, region: str) -> ModelError:
    """The typed error for what ended a stream."""
    if isinstance(error, ModelError):
        return error
    if isinstance(error, StreamException):
        return error_of_name(error.type, error.text, model=model, region=region)
    if isinstance(error, UnmodelledError):
        return error_of_name(error.error, error.text, model=model, region=region)
    if isinstance(error, TransportClosedError):
        return ModelConnectionError(f"Nova Sonic: the stream ended{': ' + error.reason if error.reason else ''}.")
    if isinstance(error, ProtocolError):
        return ModelConnectionError(f"Nova Sonic: {error.message}")
    return ModelConnectionError(f"Nova Sonic: {error!r}")
