"""What first-party plugins use of the core."""

from harness import schema as schema
from harness import subprocess_call as subprocess_call
from harness.answers import http_client as http_client
from harness.answers import keys as keys
from harness.answers.cache import CachedSubject as CachedSubject
from harness.answers.cache import StageModels as StageModels
from harness.answers.reasoning import generate_final_answers as final_answers
from harness.answers.store import request_key as request_key
from harness.artifacts import fingerprint as fingerprint
from harness.artifacts import formats as formats
from harness.artifacts import shapes as shapes
from harness.artifacts.artifact_cache import is_sealed as is_sealed
from harness.artifacts.artifact_cache import seal_folder as seal_folder
from harness.artifacts.attestation import EVIDENCE as EVIDENCE
from harness.artifacts.attestation import FINGERPRINT as FINGERPRINT
from harness.artifacts.attestation import LOCK as LOCK
from harness.artifacts.attestation import MODEL as MODEL
from harness.artifacts.attestation import SERVED as SERVED
from harness.artifacts.attestation import format_decimal as format_decimal
from harness.artifacts.attestation import statement_bytes as statement_bytes
from harness.artifacts.digests import template_digest as template_digest
from harness.artifacts.fingerprint import Fingerprint as Fingerprint
from harness.artifacts.folders import FolderError as FolderError
from harness.artifacts.folders import ForeignFolder as ForeignFolder
from harness.artifacts.folders import is_plain_path as is_plain_path
from harness.artifacts.gguf import FACTORS as ROPE_FACTORS
from harness.artifacts.gguf import Gguf as Gguf
from harness.artifacts.gguf import find_gguf as find_gguf
from harness.artifacts.gguf import read_gguf as read_gguf
from harness.artifacts.gguf import read_gguf_type as read_gguf_type
from harness.artifacts.model_files import ambiguity_error as ambiguity_error
from harness.artifacts.model_files import weight_files as weight_files
from harness.artifacts.safetensors import read_safetensors as read_safetensors
from harness.artifacts.strict_json import MALFORMED as MALFORMED
from harness.artifacts.strict_json import read_json as read_json
from harness.cli.options import add_plugin_option as add_plugin_option
from harness.cli.options import set_command as set_command
from harness.collection.collection import Collection as Collection
from harness.collection.collection import Task as Task
from harness.collection.context import Context as Context
from harness.data import chat as chat
from harness.data import encoding as encoding
from harness.data.choices import find_choice_index as find_choice_index
from harness.data.column_names import PROMPT_PARTS as PROMPT_PARTS
from harness.data.fewshot import choose_examples as choose_shots
from harness.data.identity import canonical_text as canonical_text
from harness.data.pypi import hash_download as hash_download
from harness.data.repeats import StatedPreference as StatedPreference
from harness.data.repeats import find_conflicts as find_conflicts
from harness.data.repeats import find_contradictions as find_contradictions
from harness.data.repeats import find_repeats as find_repeats
from harness.data.repeats import group_by_question as group_by_question
from harness.data.repeats import is_missing as is_missing
from harness.data.repeats import make_pair_key as make_pair_key
from harness.data.rows import read_rows as read_rows
from harness.data.templates import template_columns as template_columns
from harness.errors import disk_full_error as disk_full_error
from harness.errors import is_library_error as is_library_error
from harness.errors import memory_error as memory_error
from harness.errors import missing_modules_message as missing_modules_message
from harness.errors import suggest_option as suggest_option
from harness.evaluation.baselines import find_weakness as find_weakness
from harness.files import append_line as append_line
from harness.files import copy_range as copy_range
from harness.files import hold_exclusively as hold_exclusively
from harness.files import replace_folder as replace_folder
from harness.files import reporting_write_errors as reporting_write_errors
from harness.files import split_json_lines as split_json_lines
from harness.files import try_lock as try_lock
from harness.gates import agreement as agreement
from harness.gates import labels as labels
from harness.gates.decide import decide as decide
from harness.lazy import attach_lazily as attach_lazily
from harness.pipeline.replay import ReplayRows as ReplayRows
from harness.pipeline.replay import draw_replay_rows as draw_replay_rows
from harness.planning.gate_power import describe_few_rows_power as describe_few_rows_power
from harness.records import verdict_text as verdict_text
from harness.records.completion import format_finish_reasons as format_finish_reasons
from harness.records.figures import Figures as Figures
from harness.records.findings import mark_trained_tokens as marked_text
from harness.records.findings import prompt_text as prompt_text
from harness.records.parts.slices import Slices as Slices
from harness.records.scales import OnScale as OnScale
from harness.records.verdict_figures import change_figures as change_figures
from harness.records.verdict_figures import slice_figures as slice_figures
from harness.records.verdict_figures import verdict_figures as verdict_figures
from harness.records.verdict_figures import verdict_numbers as numbers_of_verdict
from harness.release import LAYERS as LAYERS
from harness.release.evidence import open_named_base as open_named_base
from harness.release.evidence import read_listed_file as read_listed_file
from harness.release.evidence import reporting_model_errors as reporting_model_errors
from harness.release.recomputation import score_from_row as score_from_row
from harness.release.releases import promotion_history as promotions
from harness.release.signing import load_signer as load_signer
from harness.release.signing import make_envelope as make_envelope
from harness.release.verified import VerifiedExport as VerifiedExport
from harness.release.verify import verify_export as verify_export
from harness.reports import rules as rules
from harness.reports import summary as summary
from harness.reports.events import FILE as EVENTS
from harness.reports.events import RunProgress as RunProgress
from harness.reports.events import read_events as read_events
from harness.reports.markdown import format_run_markdown as format_run_markdown
from harness.reports.next_step import BUNDLE as BUNDLE
from harness.reports.next_step import suggest_next_step as suggest_next_step
from harness.reports.report_json import dumps as dumps
from harness.reports.report_json import to_json as to_json
from harness.reports.rows import correctness_metric as correctness_metric
from harness.reports.run_folder import answer_of as answer_of
from harness.reports.run_folder import find_newest as find_newest
from harness.reports.run_folder import prompt_of as prompt_of
from harness.reports.run_folder import read_rows as read_answers
from harness.reports.run_folder import read_steps as read_steps
from harness.rows.readers.inspect import parse_sample_scores as parse_sample_scores
from harness.rows.to_every_eval_ever import write_every_eval_ever as write_every_eval_ever
from harness.stats.hypothesis_tests import cluster_t as cluster_t
from harness.stats.hypothesis_tests import number_clusters as number_clusters
from harness.stats.hypothesis_tests import wilson as wilson
from harness.stats.multiple_testing import adjust_holm as adjust_holm
from harness.stats.significance import is_significant as is_significant
from harness.stats.values import find_alpha_error as find_alpha_error
from harness.suite.reader import read_suite as read_suite
from harness.suite.tables import Eval as Eval
from harness.suite.tables import Model as Model
from harness.suite.tables import Suite as Suite
from harness.texts import numbers as numbers
from harness.texts.counts import count_noun as count_noun
from harness.texts.escaping import REPLACEMENT_CHARACTER as REPLACEMENT_CHARACTER
from harness.texts.escaping import drop_surrogates as whole_text
from harness.texts.escaping import escape_markdown as escape_markdown
from harness.texts.escaping import printable as printable
from harness.texts.escaping import shorten_text as shorten_text
from harness.texts.folding import fold_case as fold_case
from harness.texts.missing import DOUBTFUL_LABELS as DOUBTFUL_LABELS
from harness.texts.printing import print_line as print_line
from harness.texts.secrets import is_secret as is_secret
from harness.texts.words import ALONE as ALONE
from harness.texts.words import UNSPACED_SHINGLE as UNSPACED_SHINGLE
from harness.texts.words import count_words as count_words
from harness.texts.words import is_unspaced as is_unspaced
from harness.texts.words import normalize_text as normalize_text
from harness.texts.words import split_answer as split_answer
from harness.texts.words import split_grams as split_grams
from harness.texts.words import split_words as split_words
from harness.workers.chunks import common_prefix_length as common_prefix_length
from harness.workers.gpus import assign_gpus as assign_gpus
from harness.workers.gpus import gpu_device_files as gpu_device_files
from harness.workers.gpus import list_gpus as list_gpus
from harness.workers.gpus import probe_gpus as probe_gpus
from harness.workers.gpus import read_gpu as read_gpu
from harness.workers.protocol import error_from_json as error_from_json
from harness.workers.protocol import error_to_json as error_to_json
from harness.workers.protocol import ref_from_json as ref_from_json
from harness.workers.protocol import ref_to_json as ref_to_json

__all__ = [
    "ALONE",
    "BUNDLE",
    "DOUBTFUL_LABELS",
    "EVENTS",
    "EVIDENCE",
    "FINGERPRINT",
    "LAYERS",
    "LOCK",
    "MALFORMED",
    "MODEL",
    "PROMPT_PARTS",
    "REPLACEMENT_CHARACTER",
    "ROPE_FACTORS",
    "SERVED",
    "UNSPACED_SHINGLE",
    "CachedSubject",
    "Collection",
    "Context",
    "Eval",
    "Figures",
    "Fingerprint",
    "FolderError",
    "ForeignFolder",
    "Gguf",
    "Model",
    "OnScale",
    "ReplayRows",
    "RunProgress",
    "Slices",
    "StageModels",
    "Suite",
    "Task",
    "VerifiedExport",
    "add_plugin_option",
    "adjust_holm",
    "agreement",
    "ambiguity_error",
    "answer_of",
    "append_line",
    "assign_gpus",
    "attach_lazily",
    "change_figures",
    "chat",
    "choose_shots",
    "cluster_t",
    "common_prefix_length",
    "copy_range",
    "correctness_metric",
    "count_noun",
    "count_words",
    "decide",
    "describe_few_rows_power",
    "disk_full_error",
    "draw_replay_rows",
    "dumps",
    "encoding",
    "error_from_json",
    "error_to_json",
    "escape_markdown",
    "final_answers",
    "find_alpha_error",
    "find_choice_index",
    "find_gguf",
    "find_newest",
    "find_weakness",
    "fingerprint",
    "fold_case",
    "format_decimal",
    "format_finish_reasons",
    "format_run_markdown",
    "formats",
    "gpu_device_files",
    "hash_download",
    "hold_exclusively",
    "http_client",
    "is_library_error",
    "is_plain_path",
    "is_sealed",
    "is_secret",
    "is_significant",
    "is_unspaced",
    "keys",
    "labels",
    "list_gpus",
    "load_signer",
    "make_envelope",
    "marked_text",
    "memory_error",
    "missing_modules_message",
    "normalize_text",
    "number_clusters",
    "numbers",
    "numbers_of_verdict",
    "open_named_base",
    "parse_sample_scores",
    "print_line",
    "printable",
    "probe_gpus",
    "promotions",
    "prompt_of",
    "prompt_text",
    "read_answers",
    "read_events",
    "read_gguf",
    "read_gguf_type",
    "read_gpu",
    "read_json",
    "read_listed_file",
    "read_rows",
    "read_safetensors",
    "read_steps",
    "read_suite",
    "ref_from_json",
    "ref_to_json",
    "replace_folder",
    "reporting_model_errors",
    "reporting_write_errors",
    "request_key",
    "rules",
    "schema",
    "score_from_row",
    "seal_folder",
    "set_command",
    "shapes",
    "shorten_text",
    "slice_figures",
    "split_answer",
    "split_grams",
    "split_json_lines",
    "split_words",
    "statement_bytes",
    "subprocess_call",
    "suggest_next_step",
    "suggest_option",
    "summary",
    "template_columns",
    "template_digest",
    "to_json",
    "try_lock",
    "verdict_figures",
    "verdict_text",
    "verify_export",
    "weight_files",
    "whole_text",
    "wilson",
    "write_every_eval_ever",
]
