"""What first-party plugins use of the core."""

from harness import isolated as isolated
from harness import schema as schema
from harness.answers import keys as keys
from harness.answers import wire as wire
from harness.answers.cache import CachedSubject as CachedSubject
from harness.answers.cache import Models as Models
from harness.answers.store import request_key as request_key
from harness.answers.thought import answers as final_answers
from harness.artifacts import formats as formats
from harness.artifacts.attestation import LOCK as LOCK
from harness.artifacts.attestation import MANIFEST as MANIFEST
from harness.artifacts.attestation import MODEL as MODEL
from harness.artifacts.attestation import SERVED as SERVED
from harness.artifacts.attestation import decimal as decimal
from harness.artifacts.attestation import payload as payload
from harness.artifacts.digests import template_digest as template_digest
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
from harness.cli.options import command as command
from harness.cli.options import with_plugins as with_plugins
from harness.collection.collected import Collection as Collection
from harness.collection.collected import Task as Task
from harness.collection.context import Context as Context
from harness.data import chat as chat
from harness.data import encoding as encoding
from harness.data.fewshot import choose as choose_shots
from harness.data.identity import keyed as keyed
from harness.data.pypi import sha256_of as sha256_of
from harness.data.rows import read_rows as read_rows
from harness.errors import disk_full as disk_full
from harness.errors import out_of_memory as out_of_memory
from harness.files import append_line as append_line
from harness.files import copy_range as copy_range
from harness.files import exclusive as exclusive
from harness.files import folder_in_place as folder_in_place
from harness.files import lines_of as lines_of
from harness.files import locked as locked
from harness.files import open_file as open_file
from harness.files import writing as writing
from harness.lazy import attach as attach
from harness.pipeline.ledger import Look as Look
from harness.pipeline.replay import Again as Again
from harness.pipeline.replay import again as again
from harness.records import words as words
from harness.records.findings import marked as marked_text
from harness.records.findings import text_of as text_of
from harness.records.said import endings as endings
from harness.records.scales import OnScale as OnScale
from harness.release import LAYERS as LAYERS
from harness.release import demands as demands
from harness.release.previous import history as promotions
from harness.release.recompute import score_in as score_in
from harness.release.served import read_served as read_served
from harness.release.signing import enveloped as enveloped
from harness.release.signing import signer_of as signer_of
from harness.release.verified import Verified as Verified
from harness.release.verify import verify as verify
from harness.reports import sentence as sentence
from harness.reports.events import FILE as EVENTS
from harness.reports.events import Underway as Underway
from harness.reports.events import read_events as read_events
from harness.reports.markdown import run_markdown as run_markdown
from harness.reports.report_json import dumps as dumps
from harness.reports.report_json import to_json as to_json
from harness.reports.rows import told_apart as told_apart
from harness.reports.run_folder import asked_of as asked_of
from harness.reports.run_folder import newest as newest
from harness.reports.run_folder import read_rows as read_answers
from harness.reports.run_folder import read_steps as read_steps
from harness.rows.to_every_eval_ever import write as write_every_eval_ever
from harness.stats.multiple import holm as holm
from harness.stats.significance import is_significant as is_significant
from harness.stats.tests import cluster_t as cluster_t
from harness.stats.tests import numbered as numbered
from harness.stats.tests import wilson as wilson
from harness.suite.reader import read_suite as read_suite
from harness.suite.tables import Eval as Eval
from harness.suite.tables import Model as Model
from harness.suite.tables import Suite as Suite
from harness.texts import numbers as numbers
from harness.texts.counts import counted as counted
from harness.texts.printing import say as say
from harness.texts.secrets import is_secret as is_secret
from harness.texts.secrets import struck as struck
from harness.texts.shown import markdown as markdown
from harness.texts.shown import shorten as shorten
from harness.texts.shown import shown as shown
from harness.texts.shown import whole as whole_text
from harness.workers.cards import card as card
from harness.workers.cards import enough as enough
from harness.workers.cards import gpus as gpus
from harness.workers.cards import here as here
from harness.workers.cards import nodes as nodes
from harness.workers.child import Desk as Desk
from harness.workers.pieces import common as common
from harness.workers.protocol import Lost as Lost
from harness.workers.protocol import is_sign as is_sign
from harness.workers.protocol import read_error as read_error
from harness.workers.protocol import read_ref as read_ref
from harness.workers.protocol import told_error as told_error
from harness.workers.protocol import told_ref as told_ref

__all__ = [
    "EVENTS",
    "LAYERS",
    "LOCK",
    "MANIFEST",
    "MODEL",
    "ROPE_FACTORS",
    "SERVED",
    "Again",
    "CachedSubject",
    "Collection",
    "Context",
    "Desk",
    "Eval",
    "Gguf",
    "Look",
    "Lost",
    "Model",
    "Models",
    "OnScale",
    "Suite",
    "Task",
    "Underway",
    "Verified",
    "again",
    "agreement",
    "append_line",
    "asked_of",
    "attach",
    "card",
    "chat",
    "choose_shots",
    "cluster_t",
    "command",
    "common",
    "copy_range",
    "counted",
    "decide",
    "decimal",
    "demands",
    "disk_full",
    "dumps",
    "endings",
    "enough",
    "enveloped",
    "exclusive",
    "final_answers",
    "folder_in_place",
    "formats",
    "gguf_of",
    "gpus",
    "here",
    "holm",
    "is_sealed",
    "is_secret",
    "is_sign",
    "is_significant",
    "isolated",
    "keyed",
    "keys",
    "labels",
    "lines_of",
    "locked",
    "markdown",
    "marked_text",
    "meant_otherwise",
    "newest",
    "nodes",
    "numbered",
    "numbers",
    "open_file",
    "out_of_memory",
    "payload",
    "promotions",
    "read_answers",
    "read_error",
    "read_events",
    "read_gguf",
    "read_json",
    "read_ref",
    "read_rows",
    "read_safetensors",
    "read_served",
    "read_suite",
    "request_key",
    "run_markdown",
    "say",
    "schema",
    "score_in",
    "seal_folder",
    "sentence",
    "sha256_of",
    "shorten",
    "shown",
    "signer_of",
    "struck",
    "template_digest",
    "text_of",
    "to_json",
    "told_apart",
    "told_error",
    "told_ref",
    "verify",
    "weight_files",
    "whole_text",
    "wilson",
    "wire",
    "with_plugins",
    "words",
    "write_every_eval_ever",
    "writing",
]
