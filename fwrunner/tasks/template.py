"""TemplateWriterTask: a file from a Jinja2 template.

As in FireWorks 2.1.4 (``templatewriter_task.py``): HTML characters of values are escaped, what is
undefined becomes nothing. Unlike there, ``append`` appends.
"""

import importlib
import os
import sys
from typing import Any, Dict

from fwrunner.action import Fault
from fwrunner.places import path_of

Params = Dict[str, Any]

try:
    _jinja2: Any = importlib.import_module("jinja2")
except ImportError as error:
    raise Fault(
        f"TemplateWriterTask needs Jinja2, which {sys.executable} on the compute node does not have: "
        f"{error}. Install it for this Python, or write the file with FileWriteTask, ScriptTask or PyTask"
    ) from error


def write_template(params: Params, spec: Params) -> None:
    """Write ``output_file`` from ``template_file`` (in ``template_dir``) and ``context``."""
    options = spec if params.get("use_global_spec") else params
    directory = options.get("template_dir") or _default_directory(options["template_file"])
    directory = path_of(directory)
    path = os.path.join(directory, path_of(options["template_file"]))
    if not os.path.exists(path):
        raise ValueError(f"TemplateWriterTask could not find a template file at: {path}")
    loader = _jinja2.FileSystemLoader(directory)
    with open(path, encoding="utf-8") as stream:
        template = _jinja2.Environment(loader=loader, autoescape=True).from_string(stream.read())
    text = template.render(options["context"])
    with open(
        path_of(options["output_file"]), "a" if options.get("append") else "w", encoding="utf-8"
    ) as output:
        output.write(text)


def _default_directory(template_file: str) -> str:
    """Return FireWorks' TEMPLATE_DIR, else the folder of templates that comes with it."""
    if os.path.isabs(template_file):
        return os.path.dirname(template_file)
    try:
        config = importlib.import_module("fireworks.fw_config")
    except ImportError:
        raise ValueError(
            f"TemplateWriterTask: where is {template_file!r:.200}? Name its 'template_dir', or give "
            "the absolute path as 'template_file' (there is no FireWorks here, with its TEMPLATE_DIR)"
        ) from None
    package = os.path.dirname(os.path.abspath(str(config.__file__)))
    return config.TEMPLATE_DIR or os.path.join(package, "user_objects", "firetasks", "templates")
