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
from .refusals import AccessNotEnabledError, QuotaError, RegionError, UnknownModelError
from .transport import TransportClosedError

_OFFERED = f"It is offered in {', '.join(REGIONS)} (and perhaps elsewhere by now)."


def error_of_name(name: str, text: str, *, model: str, region: str, source: str = "") -> ModelError:
    """The typed error for an exception of the service.

    Args:
        name: as in `x-amzn-errortype` or a frame, in any case.
        text: the service's own.
        model, region: what was asked for, and where; source: whose credentials it was asked with.
    """
    kind = name.split(":")[0].rsplit("#", 1)[-1].lower()
    tried = ", ".join(part for part in (model, region, source and f"credentials of {source}") if part)
    what = f"Nova Sonic: {text or name} ({name}). Tried: {tried}."
    match kind:
        case "throttlingexception" | "toomanyrequestsexception":
            return ModelThrottledError(what, hint="Try later, or ask AWS for more quota.")
        case "servicequotaexceededexception":
            return QuotaError(what, hint="Ask AWS for more quota; connections count as well as requests.")
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
    if isinstance(error, TransportClosedError) and "DNS" in error.reason and region and region not in REGIONS:
        return RegionError(f"Nova Sonic has no endpoint in {region!r}: {error.reason}.", hint=_OFFERED)
    if isinstance(error, TransportClosedError):
        return ModelConnectionError(f"Nova Sonic: the stream ended{': ' + error.reason if error.reason else ''}.")
    if isinstance(error, ProtocolError):
        return ModelConnectionError(f"Nova Sonic: {error.message}")
    return ModelConnectionError(f"Nova Sonic: {error!r}")
