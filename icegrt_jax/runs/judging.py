"""Which judge grades the answers to the prompts of a source, as the config says."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence

from icegrt_jax.config.options import EvaluateOptions, JudgeModelOptions, PPOOptions
from icegrt_jax.data.encode import encode_prompt
from icegrt_jax.data.records import Prompt
from icegrt_jax.data.sequences import Chained
from icegrt_jax.data.tokenizers import ChatTokenizer
from icegrt_jax.evaluation.judges import Judge, mean_grades
from icegrt_jax.runs.judge_model import grade_all, load

JudgeOf = Callable[[str], Judge | None]  # of a source; None: its answers are not judged
# The key of each group of prompts.
DEFAULTS = {"domain": "judge", "temperature_prompts": "judge", "general": "general_judge"}


@dataclasses.dataclass(frozen=True)
class Questions:
    """Prompts, the judge of the answers to each, None where they are not judged, and of which source each is."""

    prompts: Sequence[Prompt]
    judges: list[Judge | None]
    sources: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.prompts)

    def chosen(self, indices: Iterable[int]) -> "Questions":
        """Some of them, in this order."""
        indices = list(indices)
        sources = [self.sources[i] for i in indices] if self.sources else ()
        return Questions([self.prompts[i] for i in indices], [self.judges[i] for i in indices], sources)

    def grade(self, answers: Sequence[str]) -> list[dict[str, float]]:
        """The numbers of each answer."""
        return grade_all([judge for judge in self.judges if judge is not None], self.prompts, answers)

    def shows(self, names: Iterable[str]) -> dict[str, str]:
        """{name: title} of what the judges show beside gold, of the numbers of these names."""
        judges = dict.fromkeys(judge for judge in self.judges if judge is not None)
        return {name: title for judge in judges for name, title in judge.shows(names).items()}

    def harms(self) -> dict[str, str]:
        """{name: title} of the judges' numbers of which less is better."""
        judges = dict.fromkeys(judge for judge in self.judges if judge is not None)
        return {name: title for judge in judges for name, title in judge.harms.items()}

    def judged(self, answers: Sequence[str]) -> dict[str, float]:
        """Means of gold and of what the judges show, over the answers that have a judge; for the curves of PPO."""
        places = [i for i, judge in enumerate(self.judges) if judge is not None]
        if not places:
            return {}
        grades = mean_grades(self.chosen(places).grade([answers[i] for i in places]))
        shown = self.shows(grades)
        return {"gold": grades["gold"], **{f"gold_{name}": value for name, value in grades.items() if name in shown}}


def questions(sources: Mapping[str, Sequence[Prompt]], judge_of: JudgeOf) -> Questions:
    """The prompts of all sources, in order."""
    judges = {source: judge_of(source) for source in sources}
    of_each = [source for source, records in sources.items() for _ in range(len(records))]
    return Questions(Chained(sources.values()), [judges[source] for source in of_each], of_each)


def fitting(
    sources: Mapping[str, Sequence[Prompt]], judge_of: JudgeOf, tokenizer: ChatTokenizer, longest: int, limit: int
) -> tuple[Questions, int]:
    """`questions` of the first `limit` of each source (0: of all) with at most `longest` tokens; how many have more."""
    asked = questions({source: records[: limit or None] for source, records in sources.items()}, judge_of)
    fit = [i for i, prompt in enumerate(asked.prompts) if len(encode_prompt(prompt, tokenizer)) <= longest]
    return asked.chosen(fit), len(asked) - len(fit)


def of_evaluation(section: EvaluateOptions, group: str, domain: str) -> JudgeOf:
    """The judges of the sources of one group of `DEFAULTS`; `domain` is what the judge of that name is of."""
    key = DEFAULTS[group]
    default = getattr(section, key)
    return _judge_of("evaluate.judges", section.judges, f"evaluate.{key}", default, domain, section.judge_model)


def of_ppo(section: PPOOptions, domain: str) -> JudgeOf:
    """The judges of PPO's sources."""
    return _judge_of("ppo.judges", section.judges, "ppo.judge", section.judge, domain)


def _judge_of(
    own_key: str, own: Mapping[str, str], key: str, default: str, domain: str, model: JudgeModelOptions | None = None
) -> JudgeOf:
    """A source has the judge that `own` names for it, else the default."""

    def judge_of(source: str) -> Judge | None:
        name = own.get(source, default)
        return load(f"{own_key}.{source}" if source in own else key, name, domain, model) if name else None

    return judge_of
