"""The Datasette plugin: what cm hooks into Datasette 0.65 and 1.0 alike. It keeps quiet where no index is served.

Templates stand in templates/cm and are called cm/….html, so that none takes the place of one of Datasette's.
"""

from __future__ import annotations

import os

from datasette import hookimpl
from jinja2 import ChoiceLoader, FileSystemLoader

from . import endpoints, guard, pages, served

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from datasette.app import Datasette
    from jinja2 import Environment

TEMPLATES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "templates")


@hookimpl
def asgi_wrapper(datasette: Datasette) -> Callable[[guard.App], guard.App]:
    is_ours = served.find(datasette) is not None
    return lambda app: guard.wrap(datasette, app) if is_ours else app


@hookimpl
def register_routes(datasette: Datasette) -> list[tuple[str, Any]]:
    return [*pages.ROUTES, *endpoints.ROUTES] if served.find(datasette) is not None else []


@hookimpl
def prepare_jinja2_environment(env: Environment, datasette: Datasette) -> None:
    if served.find(datasette) is None:
        return
    env.loader = ChoiceLoader([*filter(None, [env.loader]), FileSystemLoader(TEMPLATES)])
    env.add_extension(guard.Nonces)
    env.globals |= {
        "csp_nonce": guard.nonce,
        "cm_static": lambda name: datasette.urls.path(endpoints.static_url(name)),
    }
