"""``python -m deployments.stack start|stop|status``: Prefect, MLflow, Ray and a worker on this machine."""

import argparse
import json
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

from deployments import processes
from deployments.postgres import make_databases
from deployments.services import Service, services
from deployments.settings import PORTS, Settings, taken
from s2d_core.errors import ConfigError, ResourceError, S2DError
from s2d_core.store import write_json
from tasks.locks import exclusive

START_SECONDS = 600.0  # a busy machine takes minutes
STOP_SECONDS = 20.0
POLL_S = 0.3
LOG_LINES = 15


def start(settings: Settings) -> None:
    """Start what does not run, register the deployments, and return when everything answers.

    Raises S2DError when a port is taken, before anything is started, or when a part does not come up, after
    everything this call has started has been ended again.
    """
    settings.check()
    settings.data.mkdir(parents=True, exist_ok=True)
    settings.data.chmod(0o700)  # checkpoints, databases and logs are nobody else's
    with exclusive(settings.data / "stack.lock"):
        everything = services(settings)
        _check_same(settings, everything)
        missing = [service for service in everything if not service.running()]
        for service in missing:
            processes.end(service.mark, STOP_SECONDS)  # what is left of one that crashed
        _check_ports(settings, missing)
        make_databases()
        settings.site_file.write_text(settings.site())
        write_json(settings.data / "stack.json", _record(settings))
        try:
            _start(settings, [service for service in missing if service.name == "ray"])  # the least patient, so first
            _start(settings, [service for service in missing if service.name in ("prefect", "mlflow")])
            _register(settings)
            _start(settings, [service for service in missing if service.name == "worker"])
        except BaseException:
            for service in reversed(missing):
                processes.end(service.mark, STOP_SECONDS)
            raise


def stop(data: Path) -> list[str]:
    """End exactly what ``start`` has started under ``data``; names of what was running."""
    if not data.is_dir():
        return []
    with exclusive(data / "stack.lock"):
        return [
            service.name for service in reversed(services(recorded(data))) if processes.end(service.mark, STOP_SECONDS)
        ]


def recorded(data: Path) -> Settings:
    """The settings of the last start under ``data``; those of no start are the defaults."""
    try:
        written = json.loads((data / "stack.json").read_text())
    except FileNotFoundError:
        return Settings(data, "127.0.0.1", PORTS)
    return Settings(data, written["host"], written["ports"], written["cpus"])


def _record(settings: Settings) -> dict[str, object]:
    return {**asdict(settings), "data": str(settings.data)}


def _check_same(settings: Settings, everything: list[Service]) -> None:
    before = recorded(settings.data)
    if before != settings and any(processes.members(service.mark) for service in everything):
        raise ConfigError(
            f"--data {settings.data}: runs already, on {before.host} with ports {before.ports}; stop it first "
            f"(python -m deployments.stack stop --data {settings.data}), or start it with the same options"
        )


def _check_ports(settings: Settings, missing: list[Service]) -> None:
    wanted = {option: port for service in missing for option, port in service.ports.items()}
    if clash := [f"{option} {port}" for option, port in wanted.items() if taken(settings.host, port)]:
        raise ResourceError(
            f"{', '.join(clash)}: taken by another program; end it, or choose other ports with these options"
        )


def _start(settings: Settings, chosen: list[Service]) -> None:
    """Start all, then wait for all."""
    waiting = {service.name: (service, _spawn(settings, service)) for service in chosen}
    tries = {service.name: service.tries for service in chosen}
    deadline = time.monotonic() + START_SECONDS
    while waiting:
        for service, process in list(waiting.values()):
            if service.ready():
                del waiting[service.name]
            elif process.poll() is not None and tries[service.name] > 1:
                tries[service.name] -= 1
                processes.end(service.mark, STOP_SECONDS)
                waiting[service.name] = service, _spawn(settings, service)
            elif (code := process.poll()) is not None or time.monotonic() > deadline:
                raise _failure(service, "does not answer" if code is None else f"ended with code {code}")
        time.sleep(POLL_S)


def _failure(service: Service, how: str) -> ResourceError:
    lines = service.log.read_text(errors="replace").splitlines()[-LOG_LINES:]
    hint = f"\nif it is {service.fix}" if service.fix else ""
    return ResourceError(f"{service.name} {how}; the end of {service.log}:\n" + "\n".join(lines) + hint)


def _spawn(settings: Settings, service: Service) -> subprocess.Popen[bytes]:
    environment = {**settings.environment, **service.environment}
    return processes.spawn(service.mark, service.command, environment, service.log, service.folder)


def _register(settings: Settings) -> None:
    """In a process of its own: Prefect reads its environment when it is imported."""
    command = [sys.executable, "-m", "deployments.register"]
    done = subprocess.run(command, env=settings.environment, capture_output=True, text=True)
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines()[-LOG_LINES:]
        raise ResourceError("the deployments could not be registered:\n" + "\n".join(lines))
    print(done.stdout, end="")


def show(settings: Settings) -> bool:
    """Print what runs and where; whether all of it does."""
    where = {
        "prefect": settings.url("prefect"),
        "mlflow": settings.url("mlflow"),
        "ray": f"{settings.url('dashboard')} (dashboard), {settings.ray} (cluster)",
        "worker": "work pool s2d",
    }
    healthy = True
    for service in services(settings):
        running = service.running()
        healthy &= running
        print(f"{service.name:<8} {'running' if running else 'DOWN   '}  {where[service.name]}  log: {service.log}")
    if not healthy:
        print("make serve (python -m deployments.stack start, with the options of the first time) starts what is down")
    return healthy


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m deployments.stack", description=__doc__)
    parser.add_argument("action", choices=("start", "stop", "status"))
    parser.add_argument(
        "--data", type=Path, default=Path("runs/serve"), help="folder of everything (default: %(default)s)"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    for name, port in PORTS.items():
        parser.add_argument(f"--{name}-port", type=int, default=port, help="default: %(default)s")
    parser.add_argument("--cpus", type=int, help="processors that Ray hands out (default: all)")
    return parser


def main(words: list[str] | None = None) -> int:
    arguments = _parser().parse_args(words)
    data = arguments.data.absolute()
    try:
        if arguments.action == "stop":
            print(f"stopped: {', '.join(stop(data)) or f'nothing was running under {data}'}")
            return 0
        if arguments.action == "status":
            return 0 if show(recorded(data)) else 1
        ports = {name: getattr(arguments, f"{name}_port") for name in PORTS}
        settings = Settings(data, arguments.host, ports, arguments.cpus)
        start(settings)
        healthy = show(settings)
        print(f"for prefect and python -m flows in this terminal: export PREFECT_API_URL={settings.api}")
        return 0 if healthy else 1
    except (S2DError, OSError) as error:  # a full disk or a folder of somebody else's says so itself
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; what had just been started is ended again", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
