"""PostgreSQL instead of SQLite, by one setting: ``S2D_POSTGRES=postgresql://user:password@host:port``."""

import os
from urllib.parse import urlsplit, urlunsplit

from s2d_core.errors import ConfigError

SETTING = "S2D_POSTGRES"
NAMES = {"prefect": "s2d_prefect", "mlflow": "s2d_mlflow"}  # two, because both call a table alembic_version


def database(service: str, scheme: str) -> str | None:
    """URL of the service's database on the server that S2D_POSTGRES names; None: it is not set."""
    if not (server := os.environ.get(SETTING)):
        return None
    parts = urlsplit(server)
    if parts.scheme not in ("postgresql", "postgres") or not parts.hostname or parts.path.strip("/"):
        raise ConfigError(
            f"{SETTING}: must read postgresql://user:password@host:port; the databases {' and '.join(NAMES.values())} "
            "are made there"
        )
    return urlunsplit(parts._replace(scheme=scheme, path=f"/{NAMES[service]}"))


def make_databases() -> None:
    """Make the databases that are missing. Raises ConfigError, without the password, when the server refuses."""
    if not (server := os.environ.get(SETTING)):
        return
    import psycopg2

    try:
        connection = psycopg2.connect(urlunsplit(urlsplit(server)._replace(scheme="postgresql", path="/postgres")))
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("SELECT datname FROM pg_database")
            there = {name for (name,) in cursor.fetchall()}
            for name in NAMES.values():
                if name not in there:
                    cursor.execute(f'CREATE DATABASE "{name}"')
        connection.close()
    except psycopg2.Error as error:
        raise ConfigError(
            f"{SETTING}: PostgreSQL at {urlsplit(server).hostname} refuses: {str(error).strip().splitlines()[0]}; its "
            f"user must be allowed to create databases, or {' and '.join(NAMES.values())} must be there"
        ) from error
