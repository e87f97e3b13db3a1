"""A loaded and checked version of a model: its network in a batcher, and its card."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from gen_ray.engine.inference import artifact, fingerprint
from gen_ray.engine.inference.artifact import Model
from gen_ray.engine.inference.batcher import Batcher, NotFiniteError, measure
from gen_ray.engine.inference.rows.chains import has_marginals
from gen_ray.errors import RunError, one_line
from gen_ray.family import Family, SupportsLatent
from gen_ray.maths.chain import Chain
from gen_ray.maths.sampler import Sampler
from gen_ray.serving.service import ModelCard, RequestLimits, card_text
from gen_ray.tracking.release import Release

WARM_ROWS = 2


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A loaded version that serves requests. A request is completed by the version on which it started."""

    id: str
    release: Release
    model: Model
    batcher: Batcher
    limits: RequestLimits
    verbs: Sequence[str]
    """Names of the verbs that the model supports."""

    @classmethod
    def open(
        cls,
        id: str,
        release: Release,
        folder: Path,
        device: torch.device,
        limits: RequestLimits,
        verbs: Callable[[Family], Sequence[str]],
        **batching: Any,
    ) -> "LoadedModel":
        """Load a verified artifact, warm it up, and compare its samples with those of its promotion.

        verbs returns the verbs that a family supports.

        Raise UserError for an artifact that cannot be trusted, RunError if a check fails.
        """
        model = artifact.load(folder, device=device)
        if release.manifest and release.manifest != model.digest:
            raise RunError(f"version {release.version}: its artifact was replaced while it was loaded")
        costs = measure(model, device)
        batcher = Batcher(model, costs, device, **batching)
        loaded = cls(id=id, release=release, model=model, batcher=batcher, limits=limits, verbs=verbs(model.family))
        try:
            loaded.check()
        except BaseException:
            batcher.close(drain=False)
            raise
        return loaded

    def check(self) -> None:
        """Build the card and draw a few samples.

        Raise RunError if the card cannot be sent, if samples are not finite, or if on the build of the promotion they
        differ from those of the promotion.
        """
        self._check_card()
        try:
            self.batcher.submit(self.default, WARM_ROWS, seed=0).future.result()
        except NotFiniteError:
            raise RunError(f"version {self.release.version}: its samples are not finite") from None
        device, promised = self.batcher.device, self.release.fingerprint
        if promised and "fast" in self.release.quality and self.release.build == fingerprint.build(self.model, device):
            found = fingerprint.fingerprint(self.model, self.release.quality["fast"], device)
            if found != promised:
                raise RunError(
                    f"version {self.release.version}: fixed samples have SHA-256 {found[:12]}…, "
                    f"at its promotion on the same build they had {promised[:12]}…"
                )

    def _check_card(self) -> None:
        """Raise RunError if the card cannot be sent, because then no request could be answered."""
        try:
            for name, choice in self.release.quality.items():
                if choice.steps > self.limits.steps:
                    raise ValueError(f"{name} has {choice.steps} steps, the maximum is {self.limits.steps}")
            card_text(self.card())
        except Exception as error:  # tags and metrics come from the registry and may have any value
            reason = one_line(error)
            raise RunError(f"version {self.release.version}: its card cannot be made: {reason}") from None

    @property
    def default(self) -> Chain:
        """Return the chain of a request without sampler and steps: that of the promotion, or else of the evaluation."""
        return self.model.family.chain(self.default_sampler, self.default_steps)

    @property
    def default_sampler(self) -> str:
        """Return the sampler of the default chain."""
        chosen = self.release.quality.get("balanced")
        return chosen.sampler if chosen else self.model.experiment.sampler(self.model.family)

    @property
    def default_steps(self) -> int:
        """Return the number of steps of the default chain."""
        chosen, experiment = self.release.quality.get("balanced"), self.model.experiment
        if chosen:
            return chosen.steps
        about = self.model.family.samplers()[self.default_sampler.partition(":")[0]]
        return experiment.evaluation.steps or about.default_steps

    @cached_property
    def exact_conditions(self) -> bool:
        """Return whether the model draws rows of a table with given values, and their marginals, exactly."""
        return self.model.spec.is_table and has_marginals(self.model, self.batcher.device)

    def card(self, *, trouble: str | None = None) -> ModelCard:
        """Return the card of this version; ``trouble`` says why a newer one is not served."""
        model, family, release = self.model, self.model.family, self.release
        return ModelCard(
            id=self.id,
            version=release.version,
            family=model.experiment.family.name,
            spec=model.spec,
            verbs=self.verbs,
            samplers={name: _notes(about) for name, about in family.samplers().items()},
            imputers={name: _notes(about) for name, about in family.imputers().items()},
            default={"sampler": self.default_sampler, "steps": self.default_steps, "nfe": self.default.nfe},
            quality={
                name: {**asdict(choice), "nfe": family.chain(choice.sampler, choice.steps).nfe}
                for name, choice in release.quality.items()
            },
            metric=release.metric,
            curve=release.curve,
            latent_dim=family.latent_dim if isinstance(family, SupportsLatent) else None,
            exact_conditions=self.exact_conditions,
            metrics={name: float(value) for name, value in model.meta.get("metrics", {}).items()},
            limits=asdict(self.limits),
            copies=release.copies,
            trouble=trouble,
        )

    def close(self) -> None:
        """Finish the submitted jobs and release the network."""
        self.batcher.close()


def _notes(about: Sampler) -> dict[str, Any]:
    fields = asdict(about)
    return {**fields, "options": {name: list(ends) for name, ends in about.options.items()}}
