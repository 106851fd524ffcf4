"""Who may do what on a host: keys and the vault, signatures, tokens, tickets, roles, and the audit log."""

from .audit import HOST_TENANT, Audit, Entry, Head, Verdict
from .authority import HostAuthority
from .authorizer import RuntimeAuth, parse_auth
from .credentials import SENTINEL, app_subprotocols, redacted
from .fetch import Fetcher, FetchError
from .jwks import JwksTimes
from .keys import Key, Keys, NewKey, check_tenant
from .options import AuthOptions
from .secret_values import SecretName, Secrets, secret_name
from .sigv4 import SESSION_HEADER, USER_HEADER, session_of
from .tickets import TICKET_S, Tickets
from .vault import HostKeys, Secret, Vault

__all__ = [
    "HOST_TENANT",
    "SENTINEL",
    "SESSION_HEADER",
    "TICKET_S",
    "USER_HEADER",
    "Audit",
    "AuthOptions",
    "Entry",
    "FetchError",
    "Fetcher",
    "Head",
    "HostAuthority",
    "HostKeys",
    "JwksTimes",
    "Key",
    "Keys",
    "NewKey",
    "RuntimeAuth",
    "Secret",
    "SecretName",
    "Secrets",
    "Tickets",
    "Vault",
    "Verdict",
    "app_subprotocols",
    "check_tenant",
    "parse_auth",
    "redacted",
    "secret_name",
    "session_of",
]
