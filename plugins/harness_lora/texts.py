"""What a merged model and its adapter are compared on: prose, chats, code, numbers and other scripts.

With SmolLM2's tokenizer they are some 2,200 tokens; with one of bytes 8,000, of which as many windows are taken as are
needed, one of each text before the next of any.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENS = 2000  # that are predicted in all
WINDOW = 192  # tokens at most that are read at once
CHATS = (
    (
        ("system", "You are a helpful assistant of a bank. Answer with one label."),
        ("user", "I still have not received my new card, I ordered it over a week ago."),
        ("assistant", "card_arrival"),
        ("user", "Why was I charged a fee of 3.50 when I took out cash in Lisbon?"),
        ("assistant", "cash_withdrawal_charge"),
    ),
    (
        ("user", "Write a haiku about autumn, then explain what a haiku is in one sentence."),
        ("assistant", "Red leaves on the pond;\na cold wind turns each of them\ntowards the far shore.\n\nA haiku is a "
         "poem of three lines with five, seven and five syllables."),
        ("user", "Thanks! And in Spanish?"),
        ("assistant", "Hojas en el agua;\nel viento fr\u00edo las lleva\na la otra orilla."),
    ),
)  # fmt: skip
TEXTS = (
    "The committee met on Tuesday to discuss the budget for the coming year, and most members agreed that the roof of "
    "the old library could not wait any longer. Nobody wanted to raise the fees again. After two hours the chair "
    "proposed to close the branch in the harbour on Mondays, which would save nine thousand a year, and to ask the "
    "county for the rest; the vote was seven to four, with one abstention, and the minutes were signed before supper.",
    "To boil an egg, bring water to a rolling boil, lower the egg in with a spoon, and wait seven minutes. Then put it "
    "into cold water, so that it stops cooking and the shell comes off more easily. For a poached egg, add a little "
    "vinegar, stir the water until it turns, and let the egg slide into the middle; three minutes are enough.",
    "import csv\nfrom collections import defaultdict\n\n\ndef totals(path: str) -> dict[str, float]:\n"
    '    """Return the sum of every customer\'s orders."""\n    found = defaultdict(float)\n'
    '    with open(path, newline="") as file:\n        for row in csv.DictReader(file):\n'
    '            if row["status"] != "cancelled":\n                found[row["customer"]] += float(row["amount"])\n'
    '    return dict(found)\n\n\nif __name__ == "__main__":\n'
    "    for name, total in sorted(totals('orders.csv').items()):\n"
    '        print(f"{name:<20}{total:>10.2f}")\n',
    '{"id": 4711, "tags": ["a", "b"], "price": {"amount": 12.95, "currency": "EUR"}, "available": true, "note": null}\n'
    "SELECT c.name, COUNT(*) AS n FROM orders o JOIN customers c ON c.id = o.customer_id\n"
    "WHERE o.placed >= '2024-01-01' GROUP BY c.name HAVING COUNT(*) > 3 ORDER BY n DESC LIMIT 10;\n"
    '<ul class="menu">\n  <li><a href="/">Home</a></li>\n  <li><a href="/about">About us</a></li>\n</ul>\n'
    "#!/bin/sh\nset -e\nfor f in *.log; do gzip -9 \"$f\" && mv \"$f.gz\" archive/; done\n",
    "Photosynthesis turns carbon dioxide and water into sugar and oxygen. The energy comes from light, which is caught "
    "by chlorophyll in the leaves; this is also why most leaves look green. Plants that live in dry places open their "
    "pores at night only, store the carbon dioxide as an acid, and use it when the sun is up.",
    "Q: What is the capital of France?\nA: Paris.\nQ: What is the capital of Italy?\nA: Rome.\n"
    "Q: What is the capital of Spain?\nA: Madrid.\nQ: Which planet is the largest?\nA: Jupiter.\n"
    "Q: Who wrote Faust?\nA: Goethe.\nQ: How many legs has a spider?\nA: Eight.\n",
    "3 + 4 = 7\n12 * 12 = 144\n1,024 / 8 = 128\n2 ^ 10 = 1024\nsqrt(2) = 1.41421356\npi = 3.14159265\n"
    "year  births  deaths\n1990   1,204     987\n2000   1,158   1,003\n2010   1,097   1,066\n2020     989   1,142\n"
    "tel. 030 555 0147, IBAN DE00 1234 5678 9012 3456 00, 17:45 on 28.02.2023, -40 C = -40 F, 6.022e23 per mol\n",
    "In 1905 a clerk at the patent office in Bern published four papers, on light, on the motion of small particles, "
    "on moving bodies, and on mass and energy; each of them would have been enough. The second made it possible to "
    "count molecules under a microscope, and the third did away with the ether.",
    "Dear customer, thank you for your message of 3 March. We are sorry that the parcel arrived late, and we have "
    "refunded the postage of 4.90 to your account. If the lamp does not work either, send it back in its box; you "
    "need not pay for the label. Kind regards, the service team",
    "Im Herbst ziehen die Kraniche \u00fcber das Moor nach S\u00fcden; man h\u00f6rt sie, bevor man sie sieht. "
    "L'hiver dernier, la neige est rest\u00e9e jusqu'au mois d'avril, et les enfants ont manqu\u00e9 l'\u00e9cole. "
    "El tren sale a las ocho y media, pero ma\u00f1ana no habr\u00e1 servicio por la huelga. "
    "W \u017c\u00f3\u0142tym domu mieszka\u0142 zegarmistrz.",
    "\u041f\u043e\u0435\u0437\u0434 \u043f\u0440\u0438\u0431\u044b\u0432\u0430\u0435\u0442 \u0432 \u0432\u043e\u0441"
    "\u0435\u043c\u044c \u0447\u0430\u0441\u043e\u0432 \u0432\u0435\u0447\u0435\u0440\u0430. "
    "\u4eca\u5929\u5929\u6c14\u5f88\u597d\uff0c\u6211\u4eec\u53bb\u516c\u56ed\u6563\u6b65\u3002 "
    "\u6771\u4eac\u3078\u884c\u304f\u96fb\u8eca\u306f\u4f55\u6642\u3067\u3059\u304b\u3002 "
    "\u0627\u0644\u0643\u062a\u0627\u0628 \u0639\u0644\u0649 \u0627\u0644\u0637\u0627\u0648\u0644\u0629. "
    "\u092e\u0941\u091d\u0947 \u091a\u093e\u092f \u092a\u0938\u0902\u0926 \u0939\u0948\u0964 "
    "\uc548\ub155\ud558\uc138\uc694. \U0001f642\U0001f680 \u2211\u221e \u2260 \u221a2",
    "The train left the station at a quarter past nine; by noon the hills had given way to a flat, grey plain, and the "
    "passengers, who had been talking since the border, fell silent one after the other. A boy counted the poles. "
    "\"Four hundred and six,\" he said, \"and not one bird.\" His sister didn't look up from her book.",
    "Diagnosis: Type 2 diabetes mellitus with diabetic nephropathy\nChapter: Endocrine, nutritional and metabolic "
    "diseases\nDiagnosis: Closed fracture of shaft of left femur, initial encounter\nChapter: Injury, poisoning and "
    "certain other consequences of external causes\nDiagnosis: Acute bronchitis due to rhinovirus\nChapter: Diseases "
    "of the respiratory system\n",
    "THE PARTIES AGREE AS FOLLOWS: (a) the Seller shall deliver the Goods within thirty (30) days; (b) title passes "
    "upon payment in full; (c) neither party is liable for indirect damages, except in case of gross negligence. "
    "This Agreement is governed by the laws of the State of New York, without regard to conflicts of law.",
    "# Installing\n\n1. Download the archive and unpack it: `tar xf tool-2.1.tar.gz`.\n2. Run `make` and `make check`; "
    "both should end without an error.\n3. Copy `tool` to a folder on your **PATH**.\n\n| option | meaning |\n|---|---|"
    "\n| `-v` | say more |\n| `-n N` | stop after N lines |\n\nSee also [the manual](manual.md), section 3.\n",
    "f(x) = x^2 - 4x + 3 has the roots 1 and 3, since (x - 1)(x - 3) = x^2 - 4x + 3. Its derivative f'(x) = 2x - 4 is "
    "zero at x = 2, where f has its minimum, -1. $$\\int_0^1 x^n \\, dx = \\frac{1}{n + 1}$$ holds for every n > -1.",
    "ok so i tried that and it still doesnt work lol, same error as b4?? ive reinstalled it twice now. btw does anyone "
    "know if v3 fixes it? asking for a friend... UPDATE: nvm, it was the firewall!!! thx @sam_w for the hint :)",
)  # fmt: skip


def windows(tokenizer: PreTrainedTokenizerBase, tokens: int = TOKENS, longest: int = WINDOW) -> list[Any]:
    """Return tensors of ids, each (1, T) with 2 ≤ T ≤ `longest`, that predict `tokens` in all, or fewer if fewer are.

    The first window of each text comes before the second of any, so that every kind of text is among them.
    """
    import torch

    whole = [tokenizer(text, verbose=False).input_ids for text in (*_chats(tokenizer), *TEXTS)]
    found: list[Any] = []
    for start in range(0, max(map(len, whole)), longest):
        for ids in whole:
            part = ids[start : start + longest][: tokens + 1]
            if len(part) > 1:
                found.append(torch.tensor([part]))
                tokens -= len(part) - 1
            if tokens <= 0:
                return found
    return found


def _chats(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return conversations as the tokenizer's template frames them; as plain text what it refuses, or without one."""
    told = []
    for turns in CHATS:
        messages = [{"role": role, "content": content} for role, content in turns]
        try:
            told.append(str(tokenizer.apply_chat_template(messages, tokenize=False)))
        except Exception:  # no template, or one with rules of its own about turns
            told.append("\n".join(f"{role}: {content}" for role, content in turns))
    return told
