"""The checks: what breaks most fine-tunes before the first step or at the merge, silently."""

from __future__ import annotations

from harness import Check, hookimpl


@hookimpl
def harness_checks() -> dict[str, Check]:
    # which other commands do not need
    from harness_checks import (
        answers,
        batches,
        copies,
        encoding,
        evaluations,
        labels,
        leaks,
        lint,
        merge_gates,
        merged,
        pairs,
        recipe,
        schedules,
        trained,
        vocabulary,
    )

    return {
        "D1": batches.end_token, "D2": batches.end_of_turn, "D3": batches.nothing_supervised,
        "D4": batches.rows_that_vanish, "D5": batches.cut_rows, "D6": batches.doubled_start,
        "D7": batches.other_template, "D8": encoding.prompt_is_no_prefix, "D9": batches.documents_see_each_other,
        "D10": leaks.leaks, "D11": lint.lint, "D12": recipe.few_targets, "D13": recipe.fused_experts,
        "D14": recipe.unusual_recipe, "D15": batches.labels_out_of_place, "D16": labels.unreachable,
        "D17": labels.unasked, "D18": labels.shares, "D19": batches.slow_head, "D20": recipe.untrained_ends,
        "D21": encoding.scored_otherwise, "D22": vocabulary.untrainable_tokens, "D23": evaluations.uninformative,
        "D24": schedules.ineffective_recipe,
        "D28": copies.near_copies, "D29": merge_gates.ungated_merge,
        "P1": pairs.wrong_reference, "P2": pairs.same_answers, "P3": pairs.longer_is_better,
        "P4": pairs.other_questions, "P5": pairs.learnt_nothing, "P6": pairs.sorted_labels,
        "P7": pairs.trivial_rejections, "P8": pairs.unbalanced_labels,
        "T1": trained.did_not_move, "T2": trained.not_finite, "T3": trained.repacked, "T4": trained.spiked,
        "T5": trained.overfits, "T6": trained.saved_otherwise, "T7": trained.rounded_away,
        "T8": schedules.loss_did_not_fall,
        "M1": trained.another_base, "M2": merged.equals_base, "M3": merged.differs_from_adapter,
        "M4": merged.tokenizer_changed, "M5": merged.never_stops, "M6": recipe.scaling_lost,
        "M7": merged.not_finite, "M8": vocabulary.other_tokenizer,
        "E1": answers.constant_answers, "E2": answers.cut_answers, "E3": answers.empty_answers,
        "E4": answers.cut_prompts, "E5": answers.unread_calls, "E6": answers.another_model,
        "E7": answers.scored_thoughts, "E8": answers.echoed_prompts,
        "E9": answers.gains_in_form_only, "E10": answers.weak_baseline,
    }  # fmt: skip
