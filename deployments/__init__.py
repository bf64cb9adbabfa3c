"""How the flows are operated: the services on one machine, what is registered with Prefect, and its schedules."""

import tasks  # noqa: F401  # settles the libraries' environment, which every process started from here inherits
