"""Who gives a face to whom, as the options of ``facke swap`` say it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facke_cli.samples import sample_or_path
from facke_core.errors import UsageError

__all__: list[str] = []


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """The sources, and for whom they are."""

    sources: Sequence[Path] = ()
    people: Sequence[tuple[Path, Path | None]] = ()
    """Pairs of a reference and a source; None: the person is kept."""
    plan: Path | None = None

    @property
    def single(self) -> Path | None:
        """The source where there is one only, and nothing else is said."""
        return self.sources[0] if len(self.sources) == 1 and not self.people else None

    def check(self) -> None:
        """Refuse what cannot be read, before torch is imported."""
        from facke_core.images.files import check_input

        for path in self.files():
            if not path.exists():
                raise UsageError(f"{path} does not exist. Check the path and the spelling.")
            if path.is_file() and path.suffix.lower() != ".safetensors" and path != self.plan:
                check_input(path)

    def files(self) -> Iterator[Path]:
        """All paths."""
        yield from self.sources
        for pair in self.people:
            yield from filter(None, pair)
        if self.plan:
            yield self.plan

    def load(self) -> Any:
        """Return the source, or the cast, as :class:`facke_core.SwapPipeline` takes it."""
        if self.plan:
            from facke_core.video.plan import read_plan

            return read_plan(self.plan.resolve())
        paths = [str(path.resolve()) for path in self.sources]
        source = paths[0] if len(paths) == 1 else paths or None
        if not self.people:
            return source
        from facke_core.identity.people import Cast

        people = [
            (str(who.resolve()), None if own is None else str(own.resolve()))
            for who, own in self.people
        ]
        return Cast(people, others=source)


def given(
    pictures: Sequence[str],
    sources: Sequence[str],
    mapped: Sequence[str],
    kept: Sequence[str],
    plan: Path | None,
) -> tuple[Given, Path]:
    """Tell sources from the target.

    Args:
        pictures: the arguments: the last is the target, those before it are sources.
        sources: of ``--source``.
        mapped: of ``--map``, ``REF=SOURCE`` each.
        kept: of ``--keep``.
        plan: of ``--plan``.

    Raises:
        UsageError: there is no target, no source, or both a plan and sources.
    """
    if not pictures:
        raise UsageError("Give SOURCE and TARGET, or --pairs FILE.csv. See: facke swap --help")
    *more, target = pictures
    own = [sample_or_path(each) for each in (*sources, *more)]
    people: list[tuple[Path, Path | None]] = [_pair(text) for text in mapped]
    people += [(sample_or_path(reference), None) for reference in kept]
    if plan:
        if own or people:
            raise UsageError("--plan says who becomes whom. Leave SOURCE, --map and --keep out.")
        return Given(plan=plan), sample_or_path(target)
    if not own and not mapped:
        raise UsageError(
            f"{target} is the only picture. Give SOURCE and TARGET, or TARGET and whom somebody in "
            "it becomes: --map REF=SOURCE. See: facke swap --help"
        )
    return Given(sources=own, people=people), sample_or_path(target)


def _pair(text: str) -> tuple[Path, Path]:
    """Split ``REF=SOURCE``, where names may hold an equals sign themselves."""
    parts = text.split("=")
    splits = [("=".join(parts[:i]), "=".join(parts[i:])) for i in range(1, len(parts))]
    splits = [(who, own) for who, own in splits if who and own]
    if not splits:
        raise UsageError(
            f"--map {text!r} is not possible. Give two pictures: REF=SOURCE, of which REF shows a "
            "person of TARGET."
        )
    pairs = [(sample_or_path(who), sample_or_path(own)) for who, own in splits]
    there = [pair for pair in pairs if all(path.exists() for path in pair)]
    return (there or pairs)[0]
