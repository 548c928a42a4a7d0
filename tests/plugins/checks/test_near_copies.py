"""Near-copies inside an evaluation: the column that makes them alike is named, and nothing is clustered by it."""

from __future__ import annotations

import itertools
import math
import random
from types import SimpleNamespace
from typing import Any

import pytest
from scipy.stats import binom

from harness import Finding, Sample
from harness.records.parts.clusters import Clusters
from harness.suite.tables import Eval
from harness.testing import SUITE, TRAIN, Project
from harness_checks.comparable_rows import texts_of_samples
from harness_checks.copies import near_copies, passing_rate

Rows = list[dict[str, Any]]


def find_near_copies(rows: Rows, *, cluster: str | None = None) -> list[Finding]:
    """Look at the rows of one evaluation."""
    samples = tuple(Sample(str(i), row["input"], row.get("label", ""), row) for i, row in enumerate(rows))
    spec = Eval("e", "exact_match", "suite.toml:1", data="test.jsonl", cluster=cluster, columns={"target": "label"})
    task: Any = SimpleNamespace(spec=spec, samples=samples, select=None, brings_rows=False)
    suite: Any = SimpleNamespace(header=SimpleNamespace(alpha=0.05))
    return list(near_copies({"e": task}, suite))


def make_order_rows() -> Rows:
    """Nine complaints about products, each by many customers with an order number of their own."""
    luck, said = (
        random.Random(1),
        ("arrived with a crack in its lid", "makes a humming noise at night", "smells of glue"),
    )
    things = [f"the {thing} {what}" for thing in ("kettle", "lamp", "mixer") for what in said]
    names = ["Ada", "Bo", "Cy", "Di", "Eve", "Fay", "Gus", "Hal"]
    return [
        {"input": f"Dear shop, {thing}. Order {luck.randrange(10**6)}, {luck.choice(names)}.", "label": "x",
         "complaint": f"C{i}", "weekday": luck.choice("MTWTF"), "number": luck.randrange(10**6)}
        for i, thing in enumerate(things) for _ in range(12)
    ]  # fmt: skip


def make_paraphrase_rows() -> Rows:
    """Thirty questions, each asked in four ways."""
    when = ("before a holiday", "after moving abroad", "without a fee", "by post", "in person")
    asked = [
        f"{a} my {b} {c}" for a, b, c in itertools.product(("renew", "cancel"), ("passport", "lease", "visa"), when)
    ]
    ways = ("How do I {}?", "Please tell me how to {}.", "Is there a way to {}?", "I would like to {}, what now?")
    return [
        {"input": way.format(q), "label": str(i), "question_id": i, "way": j, "city": "XY"[(i + j) % 2]}
        for i, q in enumerate(asked)
        for j, way in enumerate(ways)
    ]


def make_chinese_rows() -> Rows:
    """Twelve complaints in Chinese, without a space in them, each with eight endings."""
    things = ("包裹破损", "发票丢失", "密码忘记", "鞋码不对", "快递延误", "优惠券失效", "账户锁定", "地址写错")
    things += ("退款太慢", "拉链坏了", "重复扣款", "验证码收不到")
    ends = ("请尽快处理", "谢谢", "急", "已经三天", "怎么办", "麻烦看看", "在线等", "请回复")
    rows = enumerate(itertools.product(things, ends))
    return [
        {
            "input": f"客服你好关于我上次下单的{thing}问题一直没有解决{end}",
            "label": "x",
            "kind": thing,
            "end": end,
            "n": i,
        }
        for i, (thing, end) in rows
    ]


TABLES = {
    "orders": (make_order_rows, "complaint", 9),
    "paraphrases": (make_paraphrase_rows, "question_id", 30),
    "chinese": (make_chinese_rows, "kind", 12),
}


@pytest.mark.parametrize("table", TABLES)
def test_the_column_that_makes_rows_alike_is_named(table: str) -> None:
    """Of several columns the one whose value near-copies share, with the rate if they depend on each other."""
    make, column, groups = TABLES[table]
    (found,) = find_near_copies(make())
    assert f', which share "{column}" ({groups} values)' in found.what
    assert found.severity == "warning"
    assert (found.fix or "").startswith(f'write cluster = "{column}"')
    assert "of models at a gate's limit pass instead of 5%" in found.what
    assert find_near_copies(make(), cluster=column) == []


def test_without_a_column_that_is_what_is_said() -> None:
    """Where no column tells what near-copies share, one has to be added."""
    (found,) = find_near_copies([{"input": row["input"], "label": row["label"]} for row in make_order_rows()])
    assert ", and no column identifies their groups" in found.what
    assert "add one to the data, and name it with cluster" in (found.fix or "")


def test_what_is_no_copy_is_no_finding() -> None:
    """One instruction for all rows, a frame around different questions, and short different rows are none."""
    assert find_near_copies([{"input": "Summarise:", "label": f"text {i}", "part": i % 4} for i in range(80)]) == []
    luck = random.Random(2)
    words = ["".join(luck.choices("abcdefghijklmnop", k=6)) for _ in range(4000)]
    free = [{"input": f"What is meant by {' '.join(luck.sample(words, 6))}?", "part": i % 4} for i in range(200)]
    assert find_near_copies(free) == []
    assert find_near_copies([{"input": f"question {i} say w{i}", "kind": "ab"[i % 2]} for i in range(60)]) == []


def test_check_warns_and_clusters_nothing(project: Project) -> None:
    """`harness check` names the column before anything is trained, and the rows are judged as they were declared."""
    rows = [
        {"id": f"o{i}", **{k: v for k, v in row.items() if k != "label"}, "target": f"w{i}"}
        for i, row in enumerate(make_order_rows())
    ]
    project.write({"suite.toml": SUITE.replace('slices = ["kind"]', ""), "test.jsonl": rows, "train.jsonl": TRAIN})  # type: ignore[dict-item]
    outcome = project.harness("check", "suite.toml")
    assert "D28 near-copies" in outcome.out
    assert ', which share "complaint" (9 values)' in outcome.out
    verdicts = project.run().report.verdicts
    assert not any(verdict.get(Clusters) for verdict in verdicts)


@pytest.mark.parametrize("text", ["我的包裹还没有到", "荷物がまだ届いていません", "พัสดุของฉันยังไม่มาถึง"])
def test_languages_without_spaces_are_compared_by_characters(text: str) -> None:
    """Chinese, Japanese and Thai have no words between spaces; each character is one."""
    (found,) = texts_of_samples([Sample("1", text)])
    assert len(found.words) >= 8
    assert "".join(found.words) == text


def test_the_rate_is_that_of_dependent_rows() -> None:
    """Five copies of each message: 23 % by the normal distribution, beside 26.3 % summed exactly at 40 messages."""
    assert passing_rate([1] * 200, 0.05) == pytest.approx(0.05)
    assert passing_rate([5] * 40, 0.05) == pytest.approx(0.231, abs=0.001)
    fewest = next(k for k in range(201) if binom.sf(k - 1, 200, 0.85) <= 0.05)
    assert binom.sf(math.ceil(fewest / 5) - 1, 40, 0.85) == pytest.approx(0.263, abs=0.001)
