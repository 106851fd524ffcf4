"""Several models as one: the first that can be reached answers, and the call goes on with the next when it cannot any more."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import ConfigurationError
from .base import Capabilities, Connection, Context, Model


class Fallback(Model):
    """The models in order of preference. The supervisor changes between them in mid-call, with context and unheard audio.

    What a session can do is declared by the first; the others are brought to its audio rates. An input that the model in use
    cannot take is a typed error at that moment, and the call goes on.

    Raises:
        ConfigurationError: no models, or something that is none.
    """

    def __init__(self, models: Sequence[Model]) -> None:
        flat: list[Model] = []
        for model in models:
            if not isinstance(model, Model):
                raise ConfigurationError(f"{model!r} is no model.", hint="Pass models, such as Cascade.local().")
            flat.extend(model.candidates)
        if not flat:
            raise ConfigurationError("A fallback over no models.", hint="Pass at least one.")
        self._models = tuple(flat)
        self.name = flat[0].name
        self.notice = flat[0].notice

    @property
    def capabilities(self) -> Capabilities:
        """Those of the first."""
        return self._models[0].capabilities

    @property
    def candidates(self) -> tuple[Model, ...]:
        """See Model."""
        return self._models

    async def open(self, context: Context) -> Connection:
        """Open the first one. A session opens its candidates through the supervisor instead."""
        return await self._models[0].open(context)

    async def warm_up(self) -> None:
        """Warm all of them: a fallback that must load first is no fallback."""
        for model in self._models:
            await model.warm_up()

    async def aclose(self) -> None:
        """See Model."""
        for model in self._models:
            await model.aclose()
