"""How an agent is served."""

from __future__ import annotations

import ipaddress

import msgspec

from ..errors import ConfigurationError
from ..wire.duologue import ServerOptions
from ..wire.gemini_live import ServerLimits as GeminiLimits
from ..wire.openai_realtime import ServerLimits as OpenAILimits


class ServeOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of serving one agent.

    Attributes:
        host, port: where to listen. Any address but loopback wants `key` or `no_auth`.
        key: clients must present it (`Authorization: Bearer`, or `token` in `hello`).
        no_auth: serve everybody who can reach the address.
        origins: browser origins allowed beside the server's own.
        hosts: names allowed in `Host` beside loopback and the address listened on.
        journal: path of the SQLite file that journals are kept in; "" keeps them in memory while the server runs.
        max_sessions: sessions at a time; more are refused.
        invocation_idle_s: how long the conversation of an invocation's session is kept.
        studio: whether the talk page is served.
        wire: options of protocol v1.
        tls: whether connections are encrypted; google-genai, for one, takes no others.
        certificate, certificate_key: files of a certificate of your own, which imply `tls`; "": one for development is made.
        certificate_directory: where that is kept; "": the user's cache.
        openai, gemini: limits of OpenAI Realtime and of Gemini Live as they are served here.
        as_model: over the providers' protocols the client brings instructions, tools, voice and turn detection, and runs the
            tools itself; of the agent only its model is used.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    key: str = ""
    no_auth: bool = False
    origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    journal: str = ""
    max_sessions: int = 64
    invocation_idle_s: float = 900.0
    studio: bool = True
    wire: ServerOptions = ServerOptions()
    tls: bool = False
    certificate: str = ""
    certificate_key: str = ""
    certificate_directory: str = ""
    openai: OpenAILimits = OpenAILimits()
    gemini: GeminiLimits = GeminiLimits()
    as_model: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ConfigurationError(f"There is no port {self.port}.", hint="Use 1 to 65535, or 0 for any free one.")
        if not (self.is_loopback or self.key or self.no_auth):
            raise ConfigurationError(
                f"Listening on {self.host} lets the network in.",
                hint="Give clients a key (--key), or say --no-auth if everybody may use the agent.",
            )

        if bool(self.certificate) != bool(self.certificate_key):
            raise ConfigurationError("A certificate needs its key, and a key its certificate.", hint="Give both.")

    def limited(self, seconds: float) -> ServeOptions:
        """These options, with connections of every protocol that live so long. An announcement comes in the last third."""
        notice = min(self.gemini.notice_s, seconds / 3)
        return msgspec.structs.replace(
            self,
            openai=msgspec.structs.replace(self.openai, session_s=seconds),
            gemini=msgspec.structs.replace(self.gemini, connection_s=seconds, notice_s=notice),
        )

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
