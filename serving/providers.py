"""Who may answer a request: the backends of this node and the other nodes, as far as the rules of the request allow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import trio

from chain.parameters.parameters import CREDIT
from serving.offload.originator.originator import Originator
from serving.openai.errors import ApiError, bad_request, model_not_found, no_provider, unavailable
from serving.openai.nearest_names import find_nearest
from serving.openai.provider_rules import ANYBODY, FIELD, FORMATS, ProviderRules
from serving.openai.requests import Request
from serving.scheduling.backend_pool import BackendPool, ScheduledBackend

MAX_LISTED_FORMATS = 8
"""Most combinations of number formats that an error lists."""


@dataclass(frozen=True, slots=True)
class Providers:
    """Finds who may answer a request, and says why nobody may."""

    backend_pool: BackendPool
    originator: Originator

    def get_models(self) -> list[str]:
        """Every model that this node serves or can offload to others, sorted."""
        return sorted({*self.backend_pool.get_models(), *self.originator.directory.get_models()})

    def choose_model(self, models: Sequence[str], rules: ProviderRules = ANYBODY) -> str:
        """The one of some models to use for a request that leaves it open: the least busy of those served here.

        If none is, the cheapest; of several the first.

        Raises:
            ApiError: 404, nobody whom the rules allow serves one of them.
        """
        backends = {model: self.find_backends(model, rules) for model in models}
        here = [model for model in models if is_working(backends[model])]
        if here:
            return min(here, key=lambda model: backends[model][0].admission.utilization)
        there = [model for model in models if backends[model] or self.originator.directory.has_executors(model, rules)]
        if not there:
            raise self._refuse_rules(models, rules)
        return min(there, key=self.originator.get_token_price)

    def find_backends(self, model: str, rules: ProviderRules) -> list[ScheduledBackend]:
        """The living backends of this node that may answer for a model, in the order in which to ask them."""
        backends = self.backend_pool.order(model) if rules.allows_here else []
        if not rules.has_formats:
            return backends
        return [each for each in backends if rules.allows_formats(each.get_number_formats(model))]

    def can_offload(self, request: Request) -> bool:
        """Whether another node may answer a request."""
        return not request.local_only and self.originator.directory.has_executors(request.model, request.rules)

    def check_price(self, request: Request) -> None:
        """Refuse a request whose answer could cost more than its rules say.

        Raises:
            ApiError: 400; it could.
        """
        limit = request.rules.max_price
        if limit is None:
            return
        price = self.originator.compute_price(request, request.max_completion_bytes)
        if price > limit:
            message = f"The answer can cost {price / CREDIT:g} credits, more than 'provider.max_price'. "
            raise bad_request(message + "A lower max_tokens costs less.", param="provider.max_price")

    def refuse(self, request: Request) -> ApiError:
        """The error of a request that nobody may answer."""
        model, rules = request.model, request.rules
        if rules is not ANYBODY and model in self.get_models():
            return self._refuse_rules([model], rules)
        if self.backend_pool.is_configured(model):
            return unavailable(f"The backend of '{model}' does not answer.")
        return model_not_found(model, find_nearest(model, self.get_models()))

    def _refuse_rules(self, models: Sequence[str], rules: ProviderRules) -> ApiError:
        """The error of a request for one of some models, which are served, but not by whom the rules allow.

        It names the number formats in which they are, and the key that none of these suits, if that is one.
        """
        here = [each.get_number_formats(model) for model in models for each in self.backend_pool.order(model)]
        speeds = self.originator.directory.find_speeds()
        found = dict.fromkeys([*here, *(speed.number_formats for model in models for speed in speeds.get(model, ()))])
        unmet = (
            f"{FIELD}.{key}"
            for key, part in FORMATS.items()
            if found and not any(rules.allows_part(part, getattr(formats, part)) for formats in found)
        )
        served = [formats.describe() for formats in found][:MAX_LISTED_FORMATS] if rules.has_formats else ()
        return no_provider(models[0] if len(models) == 1 else None, served, next(unmet, FIELD))


def is_working(backends: Sequence[ScheduledBackend]) -> bool:
    """Whether the first of some backends, in the order in which they are asked, is not known to be broken."""
    return bool(backends) and not backends[0].breaker.is_open(trio.current_time())
