"""What first-party plugins use of the core."""

from harness import isolated as isolated
from harness import schema as schema
from harness.answers import keys as keys
from harness.answers import wire as wire
from harness.answers.cache import CachedSubject as CachedSubject
from harness.answers.cache import Models as Models
from harness.answers.store import Responses as Responses
from harness.answers.store import request_key as request_key
from harness.answers.thought import answers as final_answers
from harness.artifacts import formats as formats
from harness.artifacts.digests import template_digest as template_digest
from harness.artifacts.digests import weights_digest as weights_digest
from harness.artifacts.gguf import FACTORS as ROPE_FACTORS
from harness.artifacts.gguf import Gguf as Gguf
from harness.artifacts.gguf import gguf_of as gguf_of
from harness.artifacts.gguf import read_gguf as read_gguf
from harness.artifacts.kept import is_sealed as is_sealed
from harness.artifacts.kept import seal as seal_folder
from harness.artifacts.reads import meant_otherwise as meant_otherwise
from harness.artifacts.reads import weight_files as weight_files
from harness.artifacts.safetensors import read_safetensors as read_safetensors
from harness.artifacts.strict import read_json as read_json
from harness.claims import agreement as agreement
from harness.claims import labels as labels
from harness.claims.decide import decide as decide
from harness.collection.collected import Task as Task
from harness.data import chat as chat
from harness.data.fewshot import choose as choose_shots
from harness.data.pypi import sha256_of as sha256_of
from harness.data.rows import GROUP as GROUP
from harness.data.rows import HELD_OUT as HELD_OUT
from harness.data.rows import read_rows as read_rows
from harness.errors import disk_full as disk_full
from harness.errors import out_of_memory as out_of_memory
from harness.files import copy_range as copy_range
from harness.files import folder_in_place as folder_in_place
from harness.lazy import lazily as lazily
from harness.records import words as words
from harness.records.findings import Severity as Severity
from harness.records.findings import marked as marked_text
from harness.records.findings import text_of as text_of
from harness.records.models import ThoughtBudget as ThoughtBudget
from harness.records.said import Ended as Ended
from harness.records.said import endings as endings
from harness.records.scales import OnScale as OnScale
from harness.records.scales import Scaled as Scaled
from harness.release.conversions import NOTE as CONVERSION_NOTES
from harness.release.conversions import copy_files as copy_files
from harness.reports import sentence as sentence
from harness.reports.rows import told_apart as told_apart
from harness.reports.run_folder import LOGS as TRAINING_LOGS
from harness.reports.run_folder import read_rows as read_answers
from harness.stats.multiple import holm as holm
from harness.stats.tests import cluster_t as cluster_t
from harness.stats.tests import numbered as numbered
from harness.stats.tests import wilson as wilson
from harness.suite.reader import read_suite as read_suite
from harness.suite.tables import Eval as Eval
from harness.suite.tables import Suite as Suite
from harness.texts.counts import counted as counted
from harness.texts.secrets import is_secret as is_secret
from harness.texts.shown import markdown as markdown
from harness.texts.shown import shorten as shorten
from harness.texts.shown import shown as shown
from harness.texts.shown import whole as whole_text

__all__ = [
    "CONVERSION_NOTES",
    "GROUP",
    "HELD_OUT",
    "ROPE_FACTORS",
    "TRAINING_LOGS",
    "CachedSubject",
    "Ended",
    "Eval",
    "Gguf",
    "Models",
    "OnScale",
    "Responses",
    "Scaled",
    "Severity",
    "Suite",
    "Task",
    "ThoughtBudget",
    "agreement",
    "chat",
    "choose_shots",
    "cluster_t",
    "copy_files",
    "copy_range",
    "counted",
    "decide",
    "disk_full",
    "endings",
    "final_answers",
    "folder_in_place",
    "formats",
    "gguf_of",
    "holm",
    "is_sealed",
    "is_secret",
    "isolated",
    "keys",
    "labels",
    "lazily",
    "markdown",
    "marked_text",
    "meant_otherwise",
    "numbered",
    "out_of_memory",
    "read_answers",
    "read_gguf",
    "read_json",
    "read_rows",
    "read_safetensors",
    "read_suite",
    "request_key",
    "schema",
    "seal_folder",
    "sentence",
    "sha256_of",
    "shorten",
    "shown",
    "template_digest",
    "text_of",
    "told_apart",
    "weight_files",
    "weights_digest",
    "whole_text",
    "wilson",
    "wire",
    "words",
]
