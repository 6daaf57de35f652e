"""``facke_core.data.pairs``: who meets whom, and the originals' sequences."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from facke_core.data.pairs import CropPair, PairConfig, PairSampler, People
from facke_core.errors import DataError, FackeWarning

COUNTS = (3, 1, 5, 2, 4)
PEOPLE = [person for person, count in enumerate(COUNTS) for _ in range(count)]


def sampler(people: list[int] = PEOPLE, batch: int = 8, composites: int = 0, **config: Any) -> Any:
    return PairSampler(
        People(people),
        config=PairConfig(**config),
        batch_size=batch,
        composites=composites,
        seed=5,
    )


def drawn(pairs: Any, steps: int) -> list[CropPair]:
    return [pair for step in range(steps) for pair in pairs[step]]


@pytest.fixture(scope="module")
def upstream(shared: Path) -> dict[str, Any]:
    return json.loads((shared / "parity" / "sampler.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "name",
    [
        "intra_IG",
        "intra_noIG",
        "inter",
        "auto_nt1_bs2_worker0",
        "auto_nt3_bs4_worker1",
        "auto_nt2_bs2_worker0",
        "auto_nt2_bs2_worker1",
        "benchmark_worker0",
        "benchmark_worker1",
    ],
)
def test_the_rule_of_facke_gives_the_sequences_of_its_code(
    upstream: dict[str, Any], name: str
) -> None:
    """Its alternation is bound to loader workers, so which rows are intra is taken from it."""
    rows = upstream["sequences"][name]["rows"]
    people = People([p for p, count in enumerate(upstream["class_counts"]) for _ in range(count)])
    rng = random.Random(upstream["random_seed"])
    ours = []
    for source, _, same in rows:
        if same and "noIG" in name:
            target = source
        else:
            target = (people.another_of if same else people.of_another)(source, rng)
        ours.append([source, target, same])
    assert ours == rows


def test_a_person_with_one_picture_has_no_other(upstream: dict[str, Any]) -> None:
    [[lonely, *_]] = upstream["sequences"]["intra_IG_singleton_class"]["rows"]
    with pytest.raises(DataError, match="one picture only"):
        People(PEOPLE).another_of(lonely, random.Random(0))


@pytest.mark.parametrize("rule", ["facke", "paper", "weighted"])
@pytest.mark.parametrize("grouping", [True, False])
@pytest.mark.filterwarnings("ignore::facke_core.errors.FackeWarning")
def test_batches_alternate(rule: str, grouping: bool) -> None:
    pairs = sampler(rule=rule, grouping=grouping, schedule="alternate")
    for step in range(40):
        for source, target, same in pairs[step]:
            assert same == (step % 2 == 0)
            assert (PEOPLE[source] == PEOPLE[target]) == same
            if same:
                assert (source != target) == grouping


def test_a_mixed_batch_holds_composites_then_intra_then_inter_pairs() -> None:
    pairs = sampler(batch=8, composites=3, intra=0.25)[0]
    assert [pair.same_identity for pair in pairs] == [True] * 5 + [False] * 3
    assert all(pair.source == pair.target for pair in pairs[:5])


def share(counts: Counter[Any], key: Any) -> float:
    return counts[key] / counts.total()


@pytest.mark.filterwarnings("ignore::facke_core.errors.FackeWarning")
def test_facke_draws_pictures_uniformly_and_the_paper_draws_people() -> None:
    settings: dict[str, Any] = {"schedule": "alternate", "grouping": True, "batch": 16}
    for rule, expected in (("facke", 5 / 14), ("paper", 1 / 4)):
        pairs = [p for p in drawn(sampler(rule=rule, **settings), 2000) if p.same_identity]
        people = Counter(PEOPLE[pair.source] for pair in pairs)
        assert set(people) == {0, 2, 3, 4}  # person 1 has one picture
        assert share(people, 2) == pytest.approx(expected, abs=0.02)
        partners = Counter(pair.target for pair in pairs if pair.source == 4)
        assert set(partners) == {5, 6, 7, 8}


@pytest.mark.filterwarnings("ignore::facke_core.errors.FackeWarning")
def test_the_other_person_of_an_inter_pair_is_uniform() -> None:
    pairs = drawn(sampler(rule="facke", schedule="alternate", batch=16), 2000)
    targets = Counter(PEOPLE[p.target] for p in pairs if not p.same_identity and p.source == 0)
    assert set(targets) == {1, 2, 3, 4}
    assert all(share(targets, person) == pytest.approx(0.25, abs=0.05) for person in targets)


def test_simswap_draws_two_pictures_and_shuffles_the_sources_of_inter_steps() -> None:
    pairs = sampler(rule="simswap", schedule="alternate")
    coincide = 0
    for step in range(200):
        for source, target, same in pairs[step]:
            assert same == (PEOPLE[source] == PEOPLE[target])
            if step % 2 == 0:
                assert same
                coincide += source == target
    assert coincide  # with replacement
    assert any(not pair.same_identity for pair in pairs[1])


def test_weights_count_for_the_weighted_rule() -> None:
    people = People([0, 1, 2], weights=[1.0, 1.0, 2.0])
    rng = random.Random(0)
    counts = Counter(people.weighted(rng) for _ in range(4000))
    assert share(counts, 2) == pytest.approx(0.5, abs=0.03)


def test_a_step_is_a_function_of_seed_and_number() -> None:
    first, second = sampler(), sampler()
    assert first[3] == second[3]
    assert [first[k] for k in (5, 1, 5)] == [second[5], second[1], second[5]]
    assert first[1] != first[2]


def test_grouping_leaves_people_with_one_picture_out_and_says_so() -> None:
    with pytest.warns(FackeWarning, match="1 of 5 people have one picture only"):
        sampler(rule="paper", grouping=True)
    with pytest.raises(DataError, match=r"data\.grouping=false"):
        sampler([0, 1, 2], grouping=True)


def test_inter_pairs_need_two_people() -> None:
    with pytest.raises(DataError, match="inter-ID pairs need two"):
        sampler([0, 0, 0])
    assert sampler([0, 0, 0], intra=1.0)[0]
