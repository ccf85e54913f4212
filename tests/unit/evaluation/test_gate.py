"""The gate promotes for a reason that it can state, and for nothing else."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from contenders import FAST, N, contender
from pawprint.config import UNKNOWN, Gate
from pawprint.data import manifest as manifests
from pawprint.data.manifest import ManifestRow
from pawprint.errors import PawprintError
from pawprint.evaluation import gate, live
from pawprint.evaluation.gate import Contender, Rule
from pawprint.evaluation.metrics import Figure, Scores, measure
from pawprint.lineage import Lineage

RULES = Gate()


def decide(challenger: Contender, champion: Contender, rules: Gate = RULES) -> gate.Verdict:
    return gate.decide(challenger, champion, rules)


def test_a_better_model_is_promoted_and_a_worse_one_is_not() -> None:
    good, bad = contender(0.97, 4), contender(0.80, 40)
    up, down = decide(good, bad), decide(bad, good)
    assert (up.outcome, down.outcome) == ("promoted", "kept")
    assert all(rule.passed is not False for rule in up.rules)
    assert "worse" in down.reason


def test_a_quantized_model_is_chosen_for_its_speed_within_the_accuracy_that_is_allowed() -> None:
    champion = contender(0.97, 4)
    twice = FAST.model_copy(update={"throughput_per_second": 200})

    def asked(challenger: Contender) -> gate.Verdict:
        rules = Gate(max_int8_accuracy_loss=0.015)  # 400 photographs cannot show less
        return gate.decide(challenger, champion, rules, quantized=True)

    faster = asked(contender(0.96, 4, speed=twice))
    assert faster.outcome == "promoted"
    assert (
        "2.00 times as many predictions a second, accuracy within gate.max_int8_accuracy_loss of 0.015" in faster.reason
    )
    assert decide(contender(0.96, 4, speed=twice), champion).outcome == "kept"  # it would not win by its answers
    assert "predictions a second: more" in asked(contender(0.97, 4)).reason
    worse = asked(contender(0.97, 12, speed=twice))
    assert worse.outcome == "kept"
    assert "accuracy not worse" in worse.reason


def test_a_quantized_model_is_preferred_where_it_is_faster_and_as_accurate() -> None:
    def figures(accuracy: float, speed: float) -> dict[str, dict[str, object]]:
        return {"validation": {"accuracy": {"value": accuracy}}, "speed": {"throughput_per_second": speed}}

    floats = figures(0.990, 100)
    assert "1.50 times" in gate.prefer_quantized(figures(0.988, 150), floats, RULES)
    assert gate.prefer_quantized(figures(0.980, 150), floats, RULES) == ""
    assert gate.prefer_quantized(figures(0.990, 90), floats, RULES) == ""


def test_noise_is_a_tie_and_a_tie_keeps_the_champion() -> None:
    verdict = decide(contender(0.9, 20, seed=1, noise=0.03), contender(0.9, 20, seed=2, noise=0.03))
    assert verdict.outcome == "tie"


def test_surer_answers_do_not_buy_more_mistakes() -> None:
    verdict = decide(contender(0.999, 8), contender(0.75, 0))
    assert verdict.outcome == "kept"
    assert "accuracy may be worse" in verdict.reason


@pytest.mark.parametrize(
    ("limit", "output"),
    [
        ({"max_calibration_error": 0.0001}, "calibration error at most 0.0001"),
        ({"min_worst_slice": 0.9999}, "every slice may be right in 0.9999 (95 % for all together)"),
        ({"max_strangers_accepted": 0.05}, "strangers accepted at most 0.05"),
        ({"max_latency_ms": 5.0}, "one prediction (median) within 5 ms"),
        ({"max_size_mb": 1.0}, "model at most 1 MB"),
    ],
)
def test_a_better_model_that_misses_a_limit_is_kept_out_and_the_limit_is_named(
    limit: dict[str, float], output: str
) -> None:
    tight = Gate.model_validate(limit)
    fast = FAST.model_copy(update={"latency_p50_ms": 1.0, "size_mb": 0.5})
    perfect = contender(0.6, 0, speed=fast)
    perfect.scores.probabilities[:] = np.clip(perfect.scores.probabilities, 0.4, 0.6)
    better = contender(0.97, 2, accepted=3 * ("max_strangers_accepted" in limit))
    if "max_calibration_error" in limit:  # 60 % sure and right in 60 % is calibrated, and still the worse model
        perfect = contender(0.6, int(0.4 * N), speed=fast)
    verdict = decide(better, perfect, tight.model_copy(update={"max_accuracy_loss": 0.1}))
    assert verdict.outcome == "kept"
    assert output in verdict.reason
    assert [rule.rule for rule in verdict.rules if rule.passed is False] == [output]


def test_a_limit_that_the_champion_misses_more_does_not_protect_it() -> None:
    slow = FAST.model_copy(update={"latency_p50_ms": 900.0})
    challenger = contender(0.97, 4, speed=FAST.model_copy(update={"latency_p50_ms": 600.0}))
    excused = decide(challenger, contender(0.8, 40, speed=slow))
    assert excused.outcome == "promoted"
    (row,) = [rule for rule in excused.rules if "within 500 ms" in rule.rule]
    assert (row.rule, row.passed) == (
        "no worse than the champion, which misses it too: one prediction (median) within 500 ms",
        True,
    )
    refused = decide(challenger, contender(0.8, 40))
    assert refused.outcome == "kept"
    (row,) = [rule for rule in refused.rules if "within 500 ms" in rule.rule]
    assert (row.rule, row.passed) == ("one prediction (median) within 500 ms", False)


def test_noise_under_a_corruption_misses_no_limit_and_a_shown_loss_does() -> None:
    whole = contender(0.97, 4)

    def asked(value: float, low: float) -> Rule:
        lost = {"blur": Figure(value=value, low=low, high=value + 0.1)}
        corruptions = whole.report.corruptions.model_copy(update={"lost": lost})
        one = Contender(whole.report.model_copy(update={"corruptions": corruptions}), whole.scores)
        (rule,) = [rule for rule in gate.first(one, RULES).rules if "corruption" in rule.rule]
        return rule

    assert asked(0.27, 0.15).passed is True
    assert asked(0.40, 0.26).passed is False
    assert asked(0.27, 0.15).challenger == "0.2700 [0.1500, 0.3700] (blur)"


def test_a_limit_on_what_was_not_measured_is_not_passed() -> None:
    whole = contender(0.97, 4)
    without = Contender(whole.report.model_copy(update={"slices": []}), whole.scores)
    (row,) = [rule for rule in gate.first(without, RULES).rules if "slice" in rule.rule]
    assert (row.challenger, row.passed) == ("no slices", None)
    none = whole.report.corruptions.model_copy(update={"photographs": 0, "accuracy": 0.0, "under": {}, "lost": {}})
    without = Contender(whole.report.model_copy(update={"corruptions": none}), whole.scores)
    (row,) = [rule for rule in gate.first(without, RULES).rules if "corruption" in rule.rule]
    assert (row.challenger, row.passed) == ("none was measured", None)
    assert "test_robustness_loss" not in without.report.flat()


def test_the_first_model_is_promoted_and_the_limits_it_misses_are_named() -> None:
    plain = gate.first(contender(0.97, 4), RULES)
    assert (plain.outcome, plain.reason) == ("promoted", "the first model of this data set")
    weak = gate.first(contender(0.8, 200), RULES)
    assert weak.outcome == "promoted"
    assert "outside its limits: calibration error" in weak.reason
    assert "every slice may be right in 0.8" in weak.reason


def test_a_verdict_without_a_comparison_has_the_figures_and_its_reason() -> None:
    verdict = gate.uncompared("kept", "version 3 was rolled back", contender(0.99, 0), None, RULES)
    assert (verdict.outcome, verdict.reason) == ("kept", "version 3 was rolled back")
    assert {rule.champion for rule in verdict.rules} == {"none"}
    assert verdict.because("", "it calls foxes dogs").reason == "version 3 was rolled back; it calls foxes dogs"


def test_the_verdict_is_the_same_on_every_run_and_prints_every_rule() -> None:
    one, two = (decide(contender(0.95, 5), contender(0.9, 9)) for _ in range(2))
    assert one == two
    table = one.markdown("a", "b")
    for rule in one.rules:
        assert f"| {rule.rule} | {rule.challenger} | {rule.champion} |" in table
    named = Rule(rule="every slice", challenger="0.5 (class: a|b <b>)", champion="none", passed=True)
    table = one.model_copy(update={"rules": [named]}).markdown("a", "b")
    assert r"| every slice | 0.5 (class: a\|b \<b>) | none | pass |" in table


def folds(sure: float, wrong: int, n: int = 4000) -> Scores:
    """Predictions out of the fold of `n` photographs, the first `wrong` of them wrong."""
    labels = np.arange(n) % 2
    confidence = np.where(np.arange(n) < wrong, 1 - sure, sure)
    probabilities = np.where(np.arange(2) == labels[:, None], confidence[:, None], 1 - confidence[:, None])
    names = tuple(f"fold{i}" for i in range(n))
    return Scores(names, names, labels, probabilities, ("cat", "dog"), np.ones(n))


def test_out_of_the_fold_shows_a_gain_that_a_test_split_cannot() -> None:
    """As many mistakes and a little more confidence: noise among 400 photographs, and a gain among 4,000."""
    ours, theirs = contender(0.95, 5, seed=1, noise=0.03), contender(0.95, 5, seed=2, noise=0.03)
    assert decide(ours, theirs).outcome == "tie"
    better = replace(ours, folds=folds(0.972, 38)), replace(theirs, folds=folds(0.965, 40))
    verdict = decide(*better)
    assert verdict.outcome == "promoted"
    assert "4,000 photographs out of the fold judge the recipe, the test split the model" in verdict.reason
    assert decide(better[0], theirs).outcome != "promoted"  # one of them has none: the test split alone


def test_the_test_split_is_the_last_check_of_what_the_folds_say() -> None:
    ours = replace(contender(0.9, 30), folds=folds(0.99, 10))
    verdict = decide(ours, replace(contender(0.97, 4), folds=folds(0.95, 60)))
    assert verdict.outcome == "kept"
    assert "neither log loss nor accuracy shown to be worse" in verdict.reason


def test_a_model_that_the_last_check_keeps_out_is_kept_out_after_any_number_of_looks() -> None:
    """A smaller error widens the interval in which "worse" has to be shown."""
    ours = replace(contender(0.97, 13), folds=folds(0.99, 10))
    theirs = replace(contender(0.97, 4), folds=folds(0.9, 200))
    for look in (1, 21, 40, 100, 400):
        verdict = gate.decide(ours, theirs, RULES, error=gate.error_at(look, 20))
        assert verdict.outcome == "kept", look
        assert "test photographs: neither log loss nor accuracy shown to be worse" in verdict.reason


def test_one_photograph_that_was_relabelled_does_not_switch_the_folds_off() -> None:
    ours, theirs = (replace(contender(0.97, 4), folds=folds(*one)) for one in ((0.97, 38), (0.96, 40)))
    assert ours.folds is not None
    ours.folds.labels[2000] = 1 - ours.folds.labels[2000]
    verdict = decide(ours, theirs)
    assert "3,999 photographs out of the fold judge the recipe" in verdict.reason


@pytest.mark.parametrize("how", ["first", "decide", "faster", "shared", "refusals"])
def test_every_table_of_the_gate_shows_what_is_served_and_tells_two_refusals_apart(how: str) -> None:
    plain = contender(0.97, 4)
    scores = replace(plain.scores, refusals=("unlike",) * 3 + ("unsure",) + ("",) * (N - 4))
    ours = Contender(plain.report.model_copy(update={"test": measure(scores)}), scores)
    verdict = {
        "first": lambda: gate.first(ours, RULES),
        "decide": lambda: decide(ours, plain),
        "faster": lambda: gate.decide(ours, plain, RULES, quantized=True),
        "shared": lambda: gate.decide_on_shared(ours, scores, plain.scores, RULES, ("cat", "fox")),
        "refusals": lambda: gate.decide_on_refusals(ours, plain, RULES),
    }[how]()
    shown = {rule.rule: (rule.challenger[:6], rule.champion[:6]) for rule in verdict.rules if rule.passed is None}
    names = ("served accuracy", "coverage", "refused as unlike", "refused as unsure")
    assert [shown[name][0] for name in names] == ["0.9900", "0.9900", "0.0075", "0.0025"]
    if how in ("decide", "faster", "refusals"):
        assert [shown[name][1] for name in names] == ["0.9900", "1.0000", "0.0000", "0.0000"]


def test_a_new_class_is_no_way_around_the_comparison() -> None:
    """A challenger that knows foxes too is compared on cats and dogs."""

    def with_foxes(plain: Contender) -> Contender:
        s = plain.scores
        third = np.concatenate([s.probabilities * 0.99, np.full((N, 1), 0.01)], axis=1)
        return replace(plain, scores=replace(s, probabilities=third, classes=("cat", "dog", "fox")))

    def asked(challenger: Contender, champion: Contender) -> gate.Verdict:
        ours = challenger.scores.among(("cat", "dog"))
        return gate.decide_on_shared(challenger, ours, champion.scores, RULES, ("cat", "dog"))

    good = asked(with_foxes(contender(0.97, 4)), contender(0.97, 4))
    assert good.outcome == "promoted"
    assert good.reason == "new classes: fox; not shown to be worse on 400 photographs of the shared classes"
    bad = asked(with_foxes(contender(0.97, 40)), contender(0.97, 4))
    assert bad.outcome == "kept"
    assert "new classes: fox; but outside: 400 photographs of the shared classes" in bad.reason


def test_the_champion_s_weights_with_other_refusals_win_unless_they_serve_worse() -> None:
    def refusing(first: int, count: int) -> Contender:
        plain = contender(0.97, 4)
        refused = ["unlike" if first <= place < first + count else "" for place in range(N)]
        scores = replace(plain.scores, refusals=tuple(refused))
        return Contender(plain.report.model_copy(update={"test": measure(scores)}), scores)

    few, many = refusing(10, 2), refusing(20, 30)
    verdict = gate.decide_on_refusals(few, many, RULES)
    assert verdict.outcome == "promoted"
    assert "the champion's weights with other refusals: served accuracy 0.9850 against 0.9150" in verdict.reason
    assert gate.decide_on_refusals(many, few, RULES).outcome == "kept"


def test_a_test_side_that_was_looked_at_often_is_asked_for_more() -> None:
    assert gate.error_at(1, 20) == gate.error_at(20, 20) == 0.025
    assert gate.error_at(40, 20) == pytest.approx(0.025 / 4)
    assert sum(gate.error_at(look, 20) for look in range(1, 100_000)) < 0.05 * 20
    ours, theirs = contender(0.95, 5, seed=1, noise=0.02), contender(0.93, 9, seed=2, noise=0.02)
    early, late = (gate.decide(ours, theirs, Gate(max_accuracy_loss=0.02), error=error) for error in (0.025, 1e-9))
    assert (early.outcome, late.outcome) == ("promoted", "tie")
    plain, printed = gate.count_looks(early, 20, 20), gate.count_looks(early, 21, 20)
    assert plain.reason == early.reason
    assert "comparison 21 on this test side" in printed.reason
    assert printed.rules[-1].challenger == "21"


def test_different_photographs_are_never_compared() -> None:
    with pytest.raises(PawprintError, match="different photographs"):
        decide(contender(0.9, 5), contender(0.9, 5, hashes="other"))


@pytest.fixture
def trained(tmp_path: Path) -> tuple[Path, Path, Lineage]:
    """A model folder, the manifest it learned from, and its lineage: aa and bb learned, cc tested."""
    manifest = tmp_path / "manifest.parquet"
    splits = {"aa": "train", "bb": "validation", "cc": "test"}
    manifests.write(
        manifest, [ManifestRow(h, "cat", split, "0.tar", 0, 1, "0", "x", "", "") for h, split in splits.items()]
    )
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "photographs.txt").write_text("aa\nbb\n")
    digest = manifests.digest(manifests.read(manifest))
    record = Lineage(
        git_commit="", git_dirty=False, dataset="d", data_hash="", manifest_digest=digest, params_digest="",
        lock_digest="", seed=1, device="cpu",
    )  # fmt: skip
    return folder, manifest, record


def test_a_model_has_seen_what_it_learned_from_and_was_tuned_on(trained: tuple[Path, Path, Lineage]) -> None:
    folder, manifest, record = trained
    assert gate.seen_hashes(folder, record, [manifest], [], "it") == {"aa", "bb"}


def test_a_near_copy_of_what_a_model_learned_is_seen_too(tmp_path: Path, trained: tuple[Path, Path, Lineage]) -> None:
    """One was rejected beside it, another came later: a few bits of its perceptual hash differ."""
    folder, manifest, record = trained
    picture, other = "ab" * 18, "34" * 18
    rows = [
        ManifestRow("aa", "cat", "train", "0.tar", 0, 1, "0", "x", "", picture),
        ManifestRow("bb", "cat", "validation", "0.tar", 0, 1, "0", "y", "", "cd" * 18),
        ManifestRow("cc", "cat", "rejected", "", 0, 0, "", "z", "", "", "near_copy"),
        ManifestRow("ee", "cat", "rejected", "", 0, 0, "", "w", "", "", "blank"),
    ]
    manifests.write(manifest, rows)
    record = record.model_copy(update={"manifest_digest": manifests.digest(manifests.read(manifest))})
    today = [
        ManifestRow("dd", "cat", "test", "0.tar", 0, 1, "0", "v", "", "aa" + picture[2:]),
        ManifestRow("ff", "cat", "test", "0.tar", 0, 1, "0", "u", "", other),
    ]
    assert gate.seen_hashes(folder, record, [manifest], today, "it") == {"aa", "bb", "cc", "dd"}


def test_a_photograph_of_an_animal_that_a_model_learned_is_seen_too(
    tmp_path: Path, trained: tuple[Path, Path, Lineage]
) -> None:
    """Groups of its own manifest, and groups that were made afterwards: aa is of Rex, as the manifest of today says."""
    folder, manifest, record = trained
    phashes = {"aa": "ab" * 18, "bb": "cd" * 18, "dd": "34" * 18, "ee": "0f" * 18, "ff": "3c" * 18}

    def row(name: str, split: str, group: str) -> ManifestRow:
        return ManifestRow(name, "dog", split, "0.tar", 0, 1, "0", name, "", phashes[name], "", group)

    manifests.write(manifest, [row("aa", "train", ""), row("bb", "validation", "tom")])
    record = record.model_copy(update={"manifest_digest": manifests.digest(manifests.read(manifest))})
    today = [row("aa", "test", "rex"), row("dd", "test", "rex"), row("ee", "test", "tom"), row("ff", "test", "ada")]
    assert gate.seen_hashes(folder, record, [manifest], today, "it") == {"aa", "bb", "dd", "ee"}


def test_two_models_are_compared_on_what_neither_knows_and_on_nothing_where_that_is_too_little() -> None:
    tested = ("aa", "cc", "dd", "ee")
    assert (
        gate.exclude_seen(tested, {"zz"}, 100, "it") == tested
    )  # a small test split is no reason, learned photographs are
    assert gate.exclude_seen(tested, {"aa", "ee"}, 2, "it") == ("cc", "dd")
    with pytest.raises(PawprintError, match=r"it has learned from 2 of the 4 test photographs.* The 2 that are left"):
        gate.exclude_seen(tested, {"aa", "ee"}, 3, "it")
    with pytest.raises(PawprintError, match="The 0 that are left"):
        gate.exclude_seen(tested, set(tested), 1, "it")


def part(whole: Contender, keep: np.ndarray) -> Contender:
    """What the same model would have scored on a part of the photographs."""
    s = whole.scores
    names = tuple(np.array(s.hashes)[keep])
    scores = Scores(names, names, s.labels[keep], s.probabilities[keep], s.classes, s.knn_similarity[keep])
    return Contender(whole.report.model_copy(update={"test": measure(scores)}), scores)


def test_a_champion_that_knows_some_photographs_wins_nothing_by_them() -> None:
    """It answers the photographs that it learned from without a fault, and is the worse model on the others."""
    knew = np.arange(N) >= N // 2
    challenger, champion = contender(0.93, 10), contender(0.9, 17)
    champion.scores.probabilities[knew] = np.eye(2)[champion.scores.labels[knew]] * 0.998 + 0.001
    unfair = decide(challenger, champion)
    assert unfair.outcome != "promoted"
    ours, theirs = part(challenger, ~knew), part(champion, ~knew)
    verdict = gate.on_subset(decide(ours, theirs), len(ours.scores.labels), N)
    assert verdict.outcome == "promoted"
    assert "compared on the 200 of 400 test photographs that neither has learned from" in verdict.reason
    loss = float(ours.scores.losses.mean())
    assert f"{loss:.4f}" in verdict.reason
    assert verdict.rules[0].rule.startswith("compared on the 200 of 400")
    assert gate.on_subset(unfair, N, N) == unfair


@pytest.mark.parametrize("claim", ["aa\n", "aa\nbb\ndd\n", "", None])
def test_a_list_of_photographs_that_the_lineage_does_not_prove_is_refused(
    trained: tuple[Path, Path, Lineage], claim: str | None
) -> None:
    folder, manifest, record = trained
    (folder / "photographs.txt").unlink() if claim is None else (folder / "photographs.txt").write_text(claim)
    with pytest.raises(PawprintError, match=r"photographs\.txt does not list the photographs of the manifest"):
        gate.seen_hashes(folder, record, [manifest], [], "it")


def test_without_the_manifest_nothing_is_proved(trained: tuple[Path, Path, Lineage]) -> None:
    folder, manifest, record = trained
    more = ManifestRow("ee", "cat", "test", "0.tar", 0, 1, "0", "x", "", "")
    manifests.write(manifest, [*manifests.read(manifest), more])
    with pytest.raises(PawprintError, match="Nothing proves what it has learned from"):
        gate.seen_hashes(folder, record, [manifest, manifest.with_name("none.csv")], [], "it")


def answers(right: int, wrong: int, refused: int = 0, champion: str = "dog") -> list[dict[str, object]]:
    """Pairs of answers to pictures of dogs, all with feedback; the champion says the same of each."""
    labels = ["dog"] * right + ["cat"] * wrong + [UNKNOWN] * refused
    return [
        {"digest": "new", "version": "4", "label": label, "milliseconds": 5.0, "champion_label": champion,
         "champion_milliseconds": 4.0, "right_label": "dog"}
        for label in labels
    ]  # fmt: skip


def test_a_challenger_waits_for_live_answers_and_must_not_be_worse_on_them() -> None:
    rules = Gate(live_answers=100)
    waits = gate.wait(decide(contender(0.97, 4), contender(0.80, 40)), "old", rules)
    assert (waits.outcome, waits.over) == ("waiting", "old")

    def after(pairs: list[dict[str, object]], others: list[dict[str, object]] | None = None) -> gate.Verdict:
        served = [{"label": "dog", "right_label": "dog", "milliseconds": 4.0}] * 300
        return gate.after_traffic(waits, live.compare(pairs, others or [], served), rules)

    few = after(answers(60, 0))
    assert few.outcome == "waiting" and few.reason.endswith("40 are missing")
    assert after([]).reason.endswith("100 are missing")
    assert after(answers(98, 2)).outcome == "promoted"
    worse = after(answers(90, 10))  # the champion was right in all
    assert worse.outcome == "kept" and "less often right (paired" in worse.reason
    shy = after(answers(80, 0, refused=20, champion="dog"))
    assert shy.outcome == "kept" and "live traffic refused" in shy.reason
    canary = after([], answers(80, 20))
    assert canary.outcome == "kept" and "less often right (unpaired" in canary.reason
    assert after([], answers(100, 0)).outcome == "promoted"
    slow = [one | {"milliseconds": 900.0} for one in answers(100, 0)]
    assert after([], slow).outcome == "kept"  # clients wait for a canary
    assert after(slow).outcome == "promoted"  # and for nothing in the shadow
