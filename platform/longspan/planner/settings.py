"""From a recipe to the settings of its sample plan.

Staging, preview and the tests' plans all come through here, so the same recipe always asks for the same plan.
"""

from collections.abc import Iterable, Mapping, Sequence

from longspan.config.data import MixPhase
from longspan.config.recipe import Recipe
from longspan.errors import ConfigError
from longspan.sampling.plan import MixPoint, PlanSettings, Upsample


def plan_settings(recipe: Recipe, source_names: Sequence[str], ends: Sequence[int] = ()) -> PlanSettings:
    """The settings of the recipe's plan over a corpus with these sources.

    Args:
        ends: steps at which the stretches of an extended run end (`config.resume.planned_steps`), the last one that of
            the plan; those of the recipe when left out. Each stretch after the first goes on with the last phase's mix,
            as a phase of its own, so that no sample before it changes.

    Raises:
        ConfigError: the recipe names a source that is not there; the line begins with the field.
    """
    data = recipe.data
    for field, names in _named_sources(recipe):
        for name in names:
            if name not in source_names:
                known = ", ".join(sorted(source_names))
                raise ConfigError(f"{field}.{name}: not a source of the manifest; it has {known}")
    mix = [MixPoint(phase.from_step, phase_weights(phase), phase.ramp) for phase in data.mix]
    mix += [MixPoint(end, mix[-1].weights) for end in ends[:-1] if end > mix[-1].step]
    return PlanSettings(
        mix=tuple(mix),
        steps=ends[-1] if ends else recipe.train.steps,
        global_batch_size=recipe.train.global_batch_size,
        sample_length=data.plan_length,
        trained_length=data.sample_length,
        packing=data.packing,
        shuffle=data.shuffle,
        shuffle_tokens=data.shuffle_tokens,
        upsample=_upsample(recipe, source_names),
        max_epochs=_max_epochs(recipe, source_names),
        on_limit=data.repetition.on_limit,
        seed=recipe.seed,
    )


def phase_weights(phase: MixPhase) -> dict[str, float]:
    """Share of each source in a phase, short mix included; they add up to 1."""
    parts = [(1.0, phase.weights)]
    if phase.short is not None:
        parts = [(1 - phase.short.share, phase.weights), (phase.short.share, phase.short.weights)]
    shares: dict[str, float] = {}
    for part, weights in parts:
        # Scaled by the largest first: the sum of huge weights must not overflow.
        largest = max(weights.values())
        scaled = {name: weight / largest for name, weight in weights.items()}
        for name, weight in scaled.items():
            shares[name] = shares.get(name, 0.0) + part * weight / sum(scaled.values())
    return shares


def _named_sources(recipe: Recipe) -> Iterable[tuple[str, Mapping[str, object]]]:
    """Every field of the recipe whose keys are names of sources, by its dotted name."""
    data = recipe.data
    for number, phase in enumerate(data.mix):
        yield f"data.mix.{number}.weights", phase.weights
        if phase.short is not None:
            yield f"data.mix.{number}.short.weights", phase.short.weights
    if data.upsample is not None:
        yield "data.upsample.by_source", data.upsample.by_source
    yield "data.repetition.by_source", data.repetition.by_source


def _upsample(recipe: Recipe, source_names: Sequence[str]) -> dict[str, Upsample]:
    given = recipe.data.upsample
    if given is None:
        return {}
    by_source = {name: Upsample(given.threshold, given.ratio) for name in source_names}
    for name, own in given.by_source.items():
        by_source[name] = Upsample(own.threshold or given.threshold, own.ratio)
    return {name: upsample for name, upsample in by_source.items() if upsample.ratio > 1}


def _max_epochs(recipe: Recipe, source_names: Sequence[str]) -> dict[str, float]:
    given = recipe.data.repetition
    everywhere = {} if given.max_epochs is None else dict.fromkeys(source_names, given.max_epochs)
    return {**everywhere, **given.by_source}
