"""Words of right and wrong, in small letters, as graders and workbooks write them.

English first, then Chinese, Hindi, Spanish, Arabic, French, Bengali, Portuguese, Russian, Urdu, Japanese, German,
Korean and Indonesian.
"""

from __future__ import annotations

import unicodedata

RIGHT = (
    *("c", "correct", "pass", "passed", "right", "true", "y", "yes", "✓", "✔", "✅"),
    *("正确", "正確", "对", "對", "是", "真", "通过", "通過", "合格"),
    *("सही", "हाँ", "हां", "सत्य", "उत्तीर्ण"),
    *("correcto", "correcta", "sí", "si", "verdadero", "cierto", "aprobado"),
    *("صحيح", "صحيحة", "صح", "نعم", "ناجح"),
    *("vrai", "oui", "juste", "réussi"),
    *("সঠিক", "হ্যাঁ", "সত্য"),
    *("correto", "correta", "certo", "sim", "verdadeiro", "aprovado"),
    *("верно", "да", "правильно", "истина", "правда", "верный"),
    *("درست", "صحیح", "ہاں", "جی ہاں"),
    *("正解", "正しい", "はい", "○", "◯"),
    *("richtig", "korrekt", "ja", "wahr", "bestanden"),
    *("정답", "맞음", "예", "네", "참", "통과", "합격"),
    *("benar", "betul", "ya", "lulus"),
)
WRONG = (
    *("i", "incorrect", "fail", "failed", "wrong", "false", "n", "no", "✗", "✘", "❌"),
    *("错误", "錯誤", "错", "錯", "否", "假", "不正确", "不正確", "不对", "不通过", "未通过", "不合格"),
    *("गलत", "ग़लत", "नहीं", "असत्य", "अनुत्तीर्ण"),
    *("incorrecto", "incorrecta", "falso", "suspenso"),
    *("خطأ", "خاطئ", "خاطئة", "غير صحيح", "لا", "راسب"),
    *("faux", "non", "échoué"),
    *("ভুল", "না", "মিথ্যা"),
    *("incorreto", "incorreta", "errado", "não", "nao", "reprovado"),
    *("неверно", "нет", "неправильно", "ложь", "неверный"),
    *("غلط", "نہیں", "جی نہیں"),
    *("不正解", "誤り", "間違い", "いいえ", "偽", "×", "✕"),
    *("falsch", "inkorrekt", "nein", "nicht bestanden"),
    *("오답", "틀림", "아니오", "아니요", "거짓", "실패", "불합격"),
    *("salah", "tidak", "tidak lulus"),
)
_VALUES = {unicodedata.normalize("NFC", word): value for value, words in ((1.0, RIGHT), (0.0, WRONG)) for word in words}


def parse_score_word(text: str) -> float | None:
    """Return 1 for a word of right and 0 for a word of wrong, in any case. None for any other text."""
    word = text.strip().lower()
    return _VALUES.get(word if word.isascii() else unicodedata.normalize("NFC", word))
