"""Names of columns, in small letters, by the role that they are taken for.

English first, then the names in other languages: Chinese, Hindi, Spanish, Arabic, French, Bengali, Portuguese,
Russian, Urdu, Japanese, German, Korean and Indonesian.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Sequence

INPUTS = (
    *("input", "inputs", "prompt", "question", "query", "instruction", "problem", "text", "message", "review", "tweet"),
    *("sentence", "comment", "body", "content", "utterance"),
    *("文本", "文字", "内容", "內容", "问题", "問題", "输入", "輸入", "评论", "評論", "句子", "提示", "提示词"),
    *("प्रश्न", "सवाल", "पाठ", "इनपुट", "टिप्पणी", "वाक्य"),
    *("texto", "pregunta", "entrada", "comentario", "reseña", "mensaje", "frase", "oración"),
    *("النص", "نص", "السؤال", "سؤال", "المدخل", "التعليق", "تعليق", "الرسالة"),
    *("texte", "entrée", "commentaire", "avis", "phrase", "énoncé"),
    *("প্রশ্ন", "পাঠ্য", "টেক্সট", "মন্তব্য", "বাক্য", "ইনপুট"),
    *("pergunta", "comentário", "mensagem", "avaliação", "questão"),
    *("текст", "вопрос", "запрос", "ввод", "комментарий", "отзыв", "сообщение", "предложение"),
    *("متن", "سوال", "تبصرہ", "ان پٹ", "جملہ"),
    *("テキスト", "文章", "質問", "入力", "コメント", "レビュー", "文", "本文"),
    *("frage", "eingabe", "kommentar", "nachricht", "satz", "bewertungstext"),
    *("텍스트", "질문", "입력", "문장", "내용", "댓글", "리뷰"),
    *("teks", "pertanyaan", "masukan", "komentar", "kalimat", "ulasan"),
)
LABELS = (
    *("label", "labels", "target", "targets", "answer", "answers", "category", "class", "intent", "topic", "mood"),
    *("sentiment", "emotion", "output", "completion", "response"),
    *("标签", "標籤", "类别", "類別", "分类", "分類", "情感", "情绪", "答案", "回答", "输出", "輸出", "目标"),
    *("लेबल", "श्रेणी", "उत्तर", "जवाब", "वर्ग", "भावना"),
    *("etiqueta", "categoría", "clase", "respuesta", "salida", "sentimiento", "emoción"),
    *("التصنيف", "تصنيف", "الفئة", "فئة", "الجواب", "جواب", "الإجابة", "إجابة", "المشاعر"),
    *("étiquette", "catégorie", "classe", "réponse", "sortie", "émotion"),
    *("লেবেল", "শ্রেণী", "শ্রেণি", "উত্তর", "অনুভূতি"),
    *("rótulo", "categoria", "resposta", "saída", "sentimento", "emoção"),
    *("метка", "категория", "класс", "ответ", "вывод", "тональность", "эмоция"),
    *("لیبل", "زمرہ", "جواب", "جذبہ"),
    *("ラベル", "カテゴリ", "カテゴリー", "クラス", "回答", "答え", "解答", "出力", "感情"),
    *("kategorie", "klasse", "antwort", "ausgabe", "stimmung"),
    *("라벨", "레이블", "카테고리", "분류", "답변", "정답", "출력", "감정"),
    *("kategori", "kelas", "jawaban", "keluaran", "sentimen"),
)
LONG_LABELS = (
    "summary",
    "highlights",
    "solution",
    "canonical_solution",
    "translation",
    "摘要",
    "翻译",
    "resumen",
    "résumé",
    "resumo",
)
"""Names of labels, in tables without a column of few values."""
GROUPS = (
    *("group", "user", "author", "customer", "article", "document", "doc", "conversation", "thread", "session"),
    *("speaker", "patient", "case"),
    *("用户", "用戶", "作者", "会话", "患者", "उपयोगकर्ता", "usuario", "autor", "المستخدم", "utilisateur", "auteur"),
    *("ব্যবহারকারী", "usuário", "пользователь", "автор", "صارف", "ユーザー", "benutzer", "사용자", "pengguna"),
)
IDS = (
    *("id", "ids", "key", "uid", "uuid", "guid", "编号", "編號", "序号", "आईडी", "المعرف", "আইডি", "код", "номер"),
    *("番号", "kennung", "아이디", "번호", "شناخت", "identificador", "identifiant"),
)
SCORES = ("score", "分数", "得分", "评分", "अंक", "puntuación", "الدرجة", "نتيجة", "স্কোর", "pontuação", "оценка", "балл",
          "اسکور", "スコア", "得点", "punktzahl", "점수", "skor")  # fmt: skip
PAIRS = (
    ("premise", "hypothesis"), ("sentence1", "sentence2"), ("sentence_a", "sentence_b"), ("text1", "text2"),
    ("text_a", "text_b"), ("question1", "question2"), ("question", "sentence"), ("context", "question"),
    ("passage", "question"), ("paragraph", "question"), ("document", "question"), ("article", "question"),
    ("query", "passage"), ("query", "document"),
)  # fmt: skip
"""Columns that are inputs together."""

OWN_NAMES = {"input": ("input", "prompt", "question"), "target": ("target", "completion", "answer")}
"""What a suite's own columns are called; before other names, the first of each is the name of the role."""

CHATS = ("messages", "conversations", "conversation")
PROMPTS = ("prompt", "question", "instruction", "query", "input")  # of preference pairs
ANSWERS = ("output", "response", "completion", "answer")  # of Alpaca and its relatives
SYSTEMS = ("system", "system_prompt")
CONTEXTS = ("input", "context")  # that follow an instruction
PROMPT_PARTS = (
    *("instruction", "context", "system", "question", "prompt", "query", "premise", "hypothesis", "passage"),
)
"""Columns that belong into a prompt."""

# of rows with choices, in small letters and without spaces and marks
CHOICE_QUESTIONS = (
    *("question", "questionstem", "query", "ctx", "prompt", "input", "goal", "sentence", "startphrase"),
)
CHOICE_CONTEXTS = ("context", "passage", "article", "support", "premise")
CHOICE_LISTS = ("choices", "options", "endings")
CHOICE_ANSWERS = (
    *("answerkey", "answer", "correctanswer", "label", "gold", "target", "correct", "correctoption", "answeridx"),
    *("answerindex", "cop"),
)
WRONG_CHOICES = ("distractors", "incorrectanswers", "wronganswers")  # the choices without the right one
CONTINUED_TEXTS = ("ctx", "startphrase")  # texts that the choices continue, instead of questions that they answer

SCORED = {"id": IDS, "score": SCORES, "input": (*INPUTS, *CHATS), "target": ("target",), "answer": ("answer",)}
"""Names of columns of rows that were scored, where an answer is the model's."""


def fold_name(name: str) -> str:
    """Return the name of a column in small letters, without marks that are not seen, such as those of direction."""
    return "".join(character for character in name if unicodedata.category(character) != "Cf").strip().lower()


def plain_name(name: str) -> str:
    """Return the name of a column in small letters, without the ends that say that it names something."""
    seen = "".join(character for character in name if unicodedata.category(character) != "Cf")
    return re.sub(r"[\W_]+(id|key|name)?$|(?<=[a-z])Id$", "", seen.strip()).lower()


def find_named(columns: Iterable[str], names: Sequence[str]) -> str | None:
    """Return the first column that has exactly one of these names but for its case; the first name counts most."""
    known: dict[str, str] = {}
    for column in columns:
        known.setdefault(fold_name(column), column)
    return next((known[name] for name in names if name in known), None)


def describe_role(role: str, columns: Iterable[str], reason: str) -> str:
    """Describe which columns have a role, and why."""
    names = ", ".join(json.dumps(column, ensure_ascii=False) for column in columns)
    return f"{role}: {names}, {reason}"
