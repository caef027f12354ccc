"""What ``moatbench serve`` does: checks, says what holds, and serves."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from bench.errors import StoppedError, UsageError, nearest, shown
from bench.exit_codes import ExitCode
from bench.remote.addresses import is_loopback, resolve
from bench.report.terminal_page import printable
from bench.serve.controls import Controls, load_controls
from bench.serve.extra import needs_serve

with needs_serve():
    from bench.serve import uvicorn_server, workers
    from bench.serve.access import read_access
    from bench.serve.admin.app import AdminApp
    from bench.serve.app import build_app
    from bench.serve.asgi import App
    from bench.serve.checkpoint_process import checkpoints
    from bench.serve.evidence_controls import PinnedModel
    from bench.serve.noise_seed import noise_seed
    from bench.serve.predictor import Predictor
    from bench.serve.state import State, state_file
    from bench.serve.tls import checked_context

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")


@dataclass(frozen=True)
class Request:
    """What the user asked for, of both servers; see ``moatbench serve --help``."""

    state: Path
    host: str = "127.0.0.1"
    port: int = 8080
    workers: int = 1
    shows: Literal["probabilities", "labels"] = "probabilities"
    version: str = "1"
    controls: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    defense: tuple[str, ...] = ()
    name: str | None = None


@dataclass(frozen=True)
class ServedApp:
    """Makes the application in each worker; ``predictor`` loads the model there."""

    predictor: Callable[[State], Predictor]
    controls: Controls
    folder: Path
    state: Path

    def __call__(self, lost: Callable[[str], None]) -> App:
        """Return the application; raises MoatbenchError."""
        state = State(state_file(self.state))
        return build_app(self.predictor(state), self.controls, state, folder=self.folder, lost=lost)


@dataclass(frozen=True)
class VictimPredictor:
    """Loads a victim and fits its defenses, as a run does.

    ``victim``: DATA/NAME, a reference to a factory, or the model whose options are ``own`` (JSON). ``pin``:
    the encrypted model of the controls, whose file is in ``folder``; None for another victim.
    """

    victim: str
    own: str
    defense: tuple[str, ...]
    data_root: Path | None
    name: str
    version: str
    shows: Literal["probabilities", "labels"]
    pin: PinnedModel | None = None
    folder: Path = Path()

    def __call__(self, state: State) -> Predictor:
        """Return the predictor; raises MoatbenchError."""
        from bench.models.pinned_model import pin_of, pinned

        pin = None
        if self.pin is not None:
            pin = pin_of(**self.pin.model_dump(), folder=self.folder, environ=os.environ)
        with pinned(pin):
            return self._loaded(state)

    def _loaded(self, state: State) -> Predictor:
        from bench.data import data_files
        from bench.models.own_references import OwnVictims
        from bench.models.served_victim import ServedVictim
        from bench.models.victim_options import VictimOptions
        from bench.models.watermarks import has_watermark, use_key
        from bench.runner.context import WorkerContext
        from bench.serve.watermark import watermark_key
        from bench.tasks import OWN, VictimSpec

        described: dict[str, VictimOptions] = {}
        if self.own:
            described[self.name] = VictimOptions.model_validate_json(self.own)
            spec = VictimSpec(OWN + self.name, "")
        elif ":" in self.victim:
            spec = VictimSpec(self.victim, "")
        else:
            data, _, architecture = self.victim.partition("/")
            spec = VictimSpec(data, architecture)
        context = WorkerContext(data_files.data_root(self.data_root), own=OwnVictims(Path(), described))
        stack = context.stack(spec, self.defense, 0)
        if has_watermark(stack):
            use_key(stack, watermark_key(state))
        return ServedVictim(
            context.victim(spec),
            stack,
            name=self.name,
            version=self.version,
            shows=self.shows,
            seed=noise_seed(state),
        )


def serve_victim(victim: str, own: Mapping[str, Any], data_root: Path | None, request: Request) -> ExitCode:
    """Serve a victim until a signal; raises MoatbenchError and StoppedError."""
    from bench.cli.model_options import victim_name, victim_options
    from bench.plan.matrix import VICTIMS, canonical_defense

    pin = controls_of(request).model
    if pin is not None:
        request = _pinned(pin, victim, own, request)
    options = ""
    if "data" in own:
        options = victim_options(victim, own).model_dump_json()
        name = victim_name(victim)
    elif ":" in victim:
        name = victim_name(victim)
    else:
        _check_shipped(victim, VICTIMS)
        name = victim.replace("/", "-")
    predictor = VictimPredictor(
        victim,
        options,
        canonical_defense(list(request.defense)),
        data_root,
        checked_name(request.name or name),
        checked_name(request.version, "--version"),
        request.shows,
        pin,
        folder_of(request),
    )
    return served(request, predictor, f"the victim {victim}", predictor.name)


def _pinned(pin: PinnedModel, victim: str, own: Mapping[str, Any], request: Request) -> Request:
    """Return the request with name and version of the pinned model; raises UsageError for another victim."""
    file = folder_of(request) / pin.file
    if "data" not in own or Path(victim).resolve() != file.resolve():
        raise UsageError(f"the controls pin the model {file}: serve it by its path, with --data")
    if request.name not in {None, pin.name}:
        raise UsageError(f"--name {request.name}: the controls pin the name {pin.name}; leave --name out")
    return replace(request, name=pin.name, version=pin.version)


def controls_of(request: Request) -> Controls:
    """Return the controls of a request; raises UsageError."""
    return Controls() if request.controls is None else load_controls(request.controls)


def folder_of(request: Request) -> Path:
    """Return the folder that paths in the controls are relative to."""
    return Path() if request.controls is None else request.controls.parent


def _check_shipped(victim: str, architectures: tuple[str, ...]) -> None:
    from bench.data import datasets

    data, slash, architecture = victim.partition("/")
    if not slash:
        raise UsageError(
            f"there is no victim {shown(victim)}: write DATA/NAME, as digits/mlp, or add --data for a model "
            "of your own"
        )
    datasets.info(data)
    if architecture not in architectures:
        raise UsageError(f"there is no victim {shown(architecture)}; {nearest(architecture, architectures)}")


def checked_name(name: str, option: str = "--name") -> str:
    """Return a name that stands in URLs as it is; raises UsageError for another."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{option} {shown(name)}: letters, digits, dots, hyphens and underscores are allowed"
        )
    return name


def served(
    request: Request,
    predictor: Callable[[State], Predictor],
    what: str,
    model: str,
    more: tuple[str, ...] = (),
) -> ExitCode:
    """Serve a predictor behind the controls until a signal; raises MoatbenchError and StoppedError.

    ``what`` is served, and further lines about it, are printed once it listens.
    """
    controls, folder = controls_of(request), folder_of(request)
    if controls.model is not None and not isinstance(predictor, VictimPredictor):
        raise UsageError("the controls pin a model, and a guard has none of its own; leave [model] out")
    tls = _check_tls(request)
    _check_address(request, tls=tls, keys=controls.keys.on)
    if controls.keys.on:
        controls.keys.pepper(folder, request.state, os.environ)  # before anything is written
    with workers.sole_server(request.state):
        with State(state_file(request.state)) as state:  # secrets are looked for before a model is loaded
            read_access(controls, state, folder=folder, environ=os.environ)
        sock = uvicorn_server.bound(request.host, request.port)
        admin = _administration(controls, folder, request.state)
        try:
            process = workers.Process(
                ServedApp(predictor, controls, folder, request.state),
                sock,
                controls.size,
                request.certificate,
                request.key,
                admin,
            )

            ports = [] if admin is None else [admin[1]]

            def started() -> None:
                (address,) = uvicorn_server.listening([sock])
                scheme = "https" if tls else "http"
                lines = (
                    f"{what} is served at {scheme}://{address}",
                    f"  POST /v2/models/{model}/infer (Open Inference Protocol), POST /predict (JSON)",
                    *(f"  {line}" for line in (*_in_words(controls, request.state), *more)),
                    *(f"  metrics at http://{each}" for each in uvicorn_server.listening(ports)),
                    "Ctrl-C ends it",
                )
                print(printable("\n".join(lines)), flush=True)

            faults: list[str] = []

            def died(sentence: str) -> None:
                faults.append(sentence)
                os.kill(os.getpid(), signal.SIGTERM)  # ends what loads, or the workers after their requests

            code = ExitCode.FINE
            # A model takes long to load, and no server listens to signals before it is loaded.
            with (
                contextlib.suppress(_Terminated),
                uvicorn_server.signals({signal.SIGTERM: _terminated}),
                checkpoints(controls.audit, state_file(request.state), folder, died),
            ):
                code = workers.run(process, request.workers, started)
            if faults:
                raise StoppedError(faults[0])
            return code
        finally:
            sock.close()
            if admin is not None:
                admin[1].close()


class _Terminated(BaseException):
    """SIGTERM came while no server listened to it; no code may take it for an error of its own."""


def _terminated() -> None:
    raise _Terminated


def _administration(controls: Controls, folder: Path, state: Path) -> tuple[AdminApp, socket.socket] | None:
    """Return the administration and its socket, on 127.0.0.1; None where the controls name no port."""
    if controls.admin is None:
        return None
    if not controls.keys.on:
        raise UsageError("[admin] needs keys; switch them on in the controls file, or leave [admin] out")
    app = AdminApp(controls, state_file(state), folder)
    return app, uvicorn_server.bound("127.0.0.1", controls.admin.port, option="port in [admin]")


def _in_words(controls: Controls, state: Path) -> list[str]:
    """Return which controls hold, a line each."""
    keys, quota, size = controls.keys, controls.quota, controls.size
    lines = ["keys: none, anybody may ask"]
    if keys.on:
        tokens = " and bearer tokens" if controls.jwt else ""
        lines = [f"keys{tokens}: a client's key is made by moatbench keys add --state {state} NAME"]
    cap = "any number" if quota.cap is None else f"{quota.cap:,}"
    rate = "" if quota.window is None else f", {quota.rate}"
    lines.append(f"inputs of an account: {cap}{rate}; of a request: {size.inputs:,}")
    if controls.suspension.after is not None:
        lines.append(f"an account is suspended after {controls.suspension.after:,} flagged inputs")
    if controls.terms is not None:
        lines.append(f"terms: version {controls.terms.version} has to be accepted, GET /terms")
    if controls.audit is not None:
        lines.append(f"audit log in {state}, checkpoints in {controls.audit.checkpoints}")
    else:
        lines.append(f"audit log in {state}, without checkpoints: nothing would show that it was cut")
    return lines


def _check_tls(request: Request) -> bool:
    if (request.certificate is None) != (request.key is None):
        raise UsageError("--certificate and --key belong together; give both")
    if request.certificate is None or request.key is None:
        return False
    checked_context(request.certificate, request.key)
    return True


def _check_address(request: Request, *, tls: bool, keys: bool) -> None:
    """Raise UsageError for an address that others can reach, unless it has TLS and keys."""
    try:
        addresses = resolve(request.host, request.port)
    except UsageError:
        raise UsageError(
            f"--host {shown(request.host)} is no address of this machine; leave it out for 127.0.0.1"
        ) from None
    if all(map(is_loopback, addresses)):
        return
    if not tls:
        raise UsageError(
            f"--host {request.host} can be reached from other machines: add --certificate and --key, "
            "or leave --host out"
        )
    if not keys:
        raise UsageError(
            f"--host {request.host} can be reached from other machines: switch keys on in the controls file, "
            "or leave --host out"
        )
