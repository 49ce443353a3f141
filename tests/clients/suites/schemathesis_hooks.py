"""What Schemathesis cannot know: which model there is. Its command line loads this, in the clients' environment."""

from __future__ import annotations

import os
from typing import Any

import schemathesis

MODEL = os.environ["MODEL"]


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    """Ask for the model that is served, where a body names one that could be."""
    if isinstance(body, dict) and isinstance(body.get("model"), str) and body["model"]:
        return {**body, "model": MODEL}
    return body


@schemathesis.hook
def map_path_parameters(context: Any, path_parameters: Any) -> Any:
    """Ask for it by its path, too."""
    if isinstance(path_parameters, dict) and "id" in path_parameters and len(str(path_parameters["id"])) % 2:
        return {**path_parameters, "id": MODEL}
    return path_parameters
