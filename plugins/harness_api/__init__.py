"""[model] use = "api": a model behind an OpenAI-compatible server, evaluated where it is served."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from harness import digest_value, hookimpl, loader
from harness.internals import attach_lazily, keys, schema
from harness_api.options import ApiOptions as ApiOptions

if TYPE_CHECKING:  # what is imported when it is asked for
    from harness import Loader, ModelRef, Subject
    from harness_api.replies import as_object as as_object
    from harness_api.replies import single_choice as single_choice
    from harness_api.scoring import message_fields as message_fields
    from harness_api.server import CHAT as CHAT
    from harness_api.server import COMPLETIONS as COMPLETIONS
    from harness_api.server import RequestRefusedError as RequestRefusedError
    from harness_api.server import Server as Server
    from harness_api.server import ServerUnavailableError as ServerUnavailableError
    from harness_api.server import find_served_entry as find_served_entry
    from harness_api.subject import APISource

__getattr__, _ = attach_lazily(__name__, __file__)


@hookimpl
def harness_loaders() -> dict[str, Loader]:
    return {"api": load}


@schema.accepts_options(ApiOptions)
def open_source(path: str, options: ApiOptions) -> APISource:
    """Connect to the server and describe the model it serves.

    Raises UsageError if it cannot be reached or does not serve the model.
    """
    from harness_api.scoring import ServerTokens
    from harness_api.server import Server, find_dialect
    from harness_api.subject import APISource

    server = Server(options)
    found = find_dialect(server, path, options)
    if not found.tokenizes:
        server.close()
        return APISource(path, options.digest(path), None, found.facts, None, options.concurrency)
    tokens = ServerTokens(server, path, options.prefix)
    return APISource(path, options.digest(path), found.context, found.facts, tokens, options.concurrency)


@schema.accepts_options(ApiOptions)
def identity(ref: ModelRef, options: ApiOptions) -> str | None:
    """Return a digest of everything that an answer depends on.

    The API key is no part of it. None without a `version`, since the served model may change.
    """
    if not options.version:
        return None
    how = [options.endpoint, options.logprobs, options.context, options.prefix, dict(options.body or {})]
    return digest_value(["api", options.digest(ref.path), how, keys.digest_code([ApiOptions], core=False)])


@loader(open=open_source, identity=identity, remote=True, needs=lambda options: ("openai",), lacks=("thought_budget",))
@schema.accepts_options(ApiOptions)
@contextmanager
def load(refs: Sequence[ModelRef], options: ApiOptions) -> Iterator[list[Subject]]:
    """Yield subjects that answer through an OpenAI-compatible server.

    A ref's path is the name under which the server serves the model. `api_key_env` names the environment variable that
    holds the key (for OpenAI's own server OPENAI_API_KEY, for others none unless named), `endpoint` is where text
    prompts go, `logprobs` how log-probs of a prompt are requested, `concurrency` bounds the requests under way,
    `timeout` is in seconds. Answers are cached only under a `version`: the model under a name can change. `context` is
    in tokens, `prefix` is a text in front of texts that are scored without a prompt, `body` holds more fields of every
    request. Raises UsageError.
    """
    from harness_api.server import Server, find_dialect
    from harness_api.subject import APISubject

    with closing(Server(options)) as server:
        yield [APISubject(ref, server, find_dialect(server, ref.path, options), options) for ref in refs]
