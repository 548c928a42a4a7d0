"""Encodings of tables: known by what the bytes decode to, or refused; none is read as another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from harness import UsageError
from harness.cli.main import main
from harness.data.encodings import detect_encoding
from harness.data.reading import read_file

HEADERS = {
    "gb18030": "文本,标签", "big5": "文字,標籤", "cp932": "テキスト,ラベル", "cp949": "텍스트,라벨",
    "cp1251": "текст,метка", "cp1252": "texte,étiquette", "cp1256": "النص,التصنيف", "cp1255": "טקסט,תווית",
    "cp1253": "κείμενο,ετικέτα", "cp1254": "metin,etiket", "cp874": "ข้อความ,ป้าย", "cp1250": "text,štítek",
}  # fmt: skip
TEXTS = {
    "gb18030": ["今天的天气非常好,我们去公园吧", "这部电影太糟糕了,浪费时间", "快递太慢了,等了一个星期"],
    "big5": ["今天的天氣非常好,我們去公園吧", "這部電影太糟糕了,浪費時間", "快遞太慢了,等了一個星期"],
    "cp932": ["今日はとても天気がいいので公園に行きましょう", "この映画はひどかった", "配達が遅すぎる"],
    "cp949": ["오늘 날씨가 아주 좋아서 공원에 갑시다", "이 영화는 너무 별로였어요", "배송이 너무 느려요"],
    "cp1251": ["Сегодня очень хорошая погода, пойдём в парк", "Этот фильм был ужасен", "Доставка медленная"],
    "cp1252": ["Il fait très beau, allons au parc", "Ce film était affreux", "L'écran est cassé, j'ai reçu ça"],
    "cp1256": ["الطقس جميل جدا اليوم فلنذهب إلى الحديقة", "هذا الفيلم سيئ للغاية", "التوصيل بطيء جدا"],
    "cp1255": ["מזג האוויר יפה מאוד היום בואו נלך לפארק", "הסרט הזה היה נורא", "המשלוח איטי מדי"],
    "cp1253": ["Ο καιρός είναι πολύ ωραίος σήμερα", "Αυτή η ταινία ήταν φρικτή", "Η παράδοση είναι πολύ αργή"],
    "cp1254": ["Bugün hava çok güzel, parka gidelim", "Personel çok nazikti, teşekkürler", "Kargo yavaştı, kırık"],
    "cp874": ["วันนี้อากาศดีมากไปสวนสาธารณะกันเถอะ", "หนังเรื่องนี้แย่มาก", "การจัดส่งช้าเกินไป"],
    "cp1250": ["Dnes je velmi hezky, pojďme do parku", "Ten film byl hrozný", "Doručení je příliš pomalé"],
}
FEW = {  # a word or two, of which no encoding is sure
    "cp1251": ["плохо", "это хороший фильм"], "cp1253": ["καλό"], "cp1255": ["טוב", "רע מאוד"],
    "cp1256": ["جيد", "سيئ جدا"], "cp874": ["ดี", "แย่มาก"], "gb18030": ["好", "很差"], "big5": ["好", "負面"],
    "cp932": ["良い", "ポジティブ"], "cp949": ["나쁨", "긍정"], "cp1252": ["schön", "Straße", "è già"],
    "cp1250": ["Árvíztűrő", "česká šála"], "cp1254": ["şikâyetçiyim", "ığdır"],
}  # fmt: skip


def make_table(encoding: str, rows: int) -> str:
    texts = TEXTS[encoding]
    lines = [f'"{texts[i % len(texts)]} {i}",{("a", "b")[i % 2]}' for i in range(rows)]
    return "\r\n".join([HEADERS[encoding], *lines, ""])


@pytest.mark.parametrize("rows", [6, 200])
@pytest.mark.parametrize("encoding", TEXTS)
def test_a_table_of_a_workbook_is_read_in_its_encoding(encoding: str, rows: int) -> None:
    """What Excel writes in each country decodes to the text that was written."""
    text = make_table(encoding, rows)
    data = text.encode(encoding)
    assert data.decode(detect_encoding(data, "a.csv", "name it")) == text


@pytest.mark.parametrize("rows", [1, 60])
@pytest.mark.parametrize("encoding", FEW)
def test_no_text_is_read_in_another_encoding(encoding: str, rows: int) -> None:
    """Of a word or two the encoding is right, or refused with others that are as likely."""
    for word in FEW[encoding]:
        text = "text,label\n" + f"{word},a\n" * rows
        data = text.encode(encoding)
        found = refused = ""
        try:
            found = detect_encoding(data, "a.csv", "name it")
        except UsageError as error:
            refused = str(error)
        assert refused.startswith("a.csv: its encoding may be ") or data.decode(found) == text, (word, found)


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ([b"text,label", *["schön,a".encode()] * 3, "übel,b".encode("cp1252")], "line 5 is not UTF-8, but others are"),
        (
            [b"text,label", *["schön,a".encode("cp1252")] * 3, "übel,b".encode()],
            "line 5 is UTF-8, but others are not",
        ),
    ],
)
def test_two_encodings_in_one_file_are_refused_by_the_line(lines: list[bytes], told: str) -> None:
    """The first line of the rarer encoding is named."""
    with pytest.raises(UsageError, match=f"^a.csv: {told}; save all of it as UTF-8$"):
        detect_encoding(b"\n".join(lines), "a.csv", "name it")


def test_a_suite_is_told_the_likely_encodings(tmp_path: Path) -> None:
    """Rows of a suite are UTF-8 unless it says otherwise, and the error names what it may say."""
    (tmp_path / "a.csv").write_bytes(make_table("gb18030", 20).encode("gb18030"))
    with pytest.raises(UsageError, match='write encoding = "gb18030" beside data'):
        read_file(tmp_path, "a.csv", "here")


@pytest.mark.parametrize("encoding", ["gb18030", "cp932", "cp1251", "cp1256"])
def test_gate_reads_the_same_rows_in_any_encoding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    """A table in UTF-8 against one in another encoding: the rows pair, and the guess is said."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    for name, as_written, change in (("base", "utf-8", 0), ("candidate", encoding, 1)):
        lines = [f'"{TEXTS[encoding][i % 3]} {i}",{int(i % 4 > 0 or i == 4 * change)}' for i in range(200)]
        text = "\n".join(["question,correct", *lines, ""])
        Path(f"{name}.csv").write_bytes(text.encode(as_written))
    assert main(["gate", "base.csv", "candidate.csv", "--worse-by-at-most", "0.05"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "200 paired by content" in out and f'candidate.csv is read as "{encoding}", a guess by its letters' in out


def test_init_reads_a_workbook_of_another_country(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The labels are those that were written, and the encoding is in the suite."""
    monkeypatch.chdir(tmp_path)
    labels: Callable[[int], str] = lambda i: ("积极", "消极")[i % 2]  # noqa: E731
    subjects = ["电影", "餐厅", "手机", "快递", "天气", "老师", "音乐", "公园", "火车", "书店"]
    rows = [f"{a}和{b}今天{c}的情况,{labels(i + j)}" for i, a in enumerate(subjects) for j, b in enumerate(subjects)
            for c in ("早上", "晚上") if a != b]  # fmt: skip
    Path("a.csv").write_bytes("\r\n".join(["文本,标签", *rows, ""]).encode("gb18030"))
    assert main(["init", "mine", "--data", "a.csv"]) == 0
    told = capsys.readouterr().err
    assert 'encoding "gb18030"' in told and 'choices: "消极", "积极"' in told
