"""The server as an ASGI application: the controls in their order, and the model behind them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from bench import __version__
from bench.serve import watermark
from bench.serve.access import read_access
from bench.serve.asgi import App, Receive, Scope, Send, send_json
from bench.serve.call import Call, Refused, call_of
from bench.serve.controls import Controls
from bench.serve.middleware.audit import Refusals
from bench.serve.middleware.deadline import Deadline
from bench.serve.middleware.decode import Decode
from bench.serve.middleware.outermost import Outermost
from bench.serve.middleware.route import ExactRoute, routes
from bench.serve.middleware.size import BodySize
from bench.serve.middleware.terms import AcceptedTerms
from bench.serve.predictor import Answer, Predictor, Query, RejectedInputsError, UpstreamError
from bench.serve.state import State
from bench.serve.terms import load as load_terms
from bench.serve.wire import oip, plain

_WIRES = {"infer": oip.encoded, "predict": plain.encoded}


def build_app(
    predictor: Predictor,
    controls: Controls,
    state: State,
    *,
    folder: Path = Path(),
    environ: Mapping[str, str] = os.environ,
    lost: Callable[[str], None] = lambda _: None,
) -> App:
    """Return the application; raises UsageError where a secret of the controls is missing.

    ``folder``: that of the controls file; ``environ``: holds secrets. ``lost``: called with a sentence when
    the state file can no longer be written. The order, outermost first: errors, deadline, size, route, log
    of refusals, limit of failed keys, authentication, terms, decoding, quota and rate, suspension, model.
    """
    access = read_access(controls, state, folder=folder, environ=environ)
    agreed = controls.terms
    endpoint = Endpoint(predictor, state)
    app: App = access.counted(endpoint)
    app = Decode(app, controls.size, predictor=predictor)
    if agreed is not None:
        app = AcceptedTerms(app, state, load_terms(folder / agreed.file, agreed.version))
    app = Refusals(access.identified(app), state)
    app = ExactRoute(app, routes(predictor.name, terms=agreed is not None), public=endpoint)
    app = BodySize(app, controls.size)
    app = Deadline(app, controls.size)
    return Outermost(app, clock=state.clock, lost=lost)


class Endpoint:
    """Answers what all controls let pass."""

    def __init__(self, predictor: Predictor, state: State) -> None:
        self._predictor, self._state = predictor, state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; raises Refused."""
        call = call_of(scope)
        if call.query is not None:
            await self._query(call, call.query, send)
        elif call.route == "live":
            await send_json(send, 200, {"live": True})
        elif call.route in {"ready", "model ready"}:
            ready = await self._predictor.ready()
            await send_json(send, 200 if ready else 503, {"ready": ready})
        elif call.route == "server":
            await send_json(send, 200, {"name": "moatbench", "version": __version__, "extensions": []})
        else:
            await send_json(send, 200, oip.metadata(self._predictor))

    async def _query(self, call: Call, query: Query, send: Send) -> None:
        try:
            answer = await self._predictor.answer(query, call.account, call.number)
        except RejectedInputsError as error:
            raise Refused(400, str(error), control="model") from None
        except UpstreamError:
            raise Refused(502, "the model gave no answer", control="upstream") from None
        if len(answer) != len(query):
            raise Refused(502, "the model gave no answer", control="upstream")
        call.flagged = int(answer.flagged.sum())
        call.refused = int(np.isnan(answer.probabilities).any(axis=1).sum())
        if answer.marks:
            self._remember(call, answer)
        document = _WIRES[call.route](answer, query, self._predictor)
        await send_json(send, 200, document)

    def _remember(self, call: Call, answer: Answer) -> None:
        """Keep the wrong answers of a watermark before they are sent; there are few."""
        named = {"classes": self._predictor.classes, "columns": self._predictor.columns}
        with self._state.transaction() as connection:
            watermark.remember(connection, call.account, answer.marks, **named, time=call.time)
