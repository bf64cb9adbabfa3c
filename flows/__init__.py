"""What a person triggers. Each flow reads top to bottom as the story; the work is in ``tasks`` and ``s2d_core``."""

import tasks  # noqa: F401  # settles the libraries' environment before they are imported
