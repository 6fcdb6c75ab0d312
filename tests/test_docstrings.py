"""Docstrings of public functions that take arrays say of what shape.

That arguments and exceptions are complete, the linter checks (pyproject.toml).
"""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "ddpm_jax"
ANY_SHAPE = "elementwise"


def public_functions(tree):
    """Yield the functions and methods of a module that others may call."""
    for node in tree.body:
        inner = node.body if isinstance(node, ast.ClassDef) else [node]
        if not getattr(node, "name", "").startswith("_"):
            for function in inner:
                named = isinstance(function, ast.FunctionDef)
                if named and not function.name.startswith("_"):
                    yield function


def takes_arrays(function):
    arguments = function.args.args + function.args.kwonlyargs
    types = [ast.unparse(a.annotation) for a in arguments if a.annotation]
    return any(
        ("jax.Array" in t or "np.ndarray" in t) and "Callable" not in t for t in types
    )


def silent(source):
    """Return the functions that take arrays and say nothing of their shape."""
    return [
        function.name
        for function in public_functions(ast.parse(source))
        if takes_arrays(function)
        and "[" not in (text := ast.get_docstring(function) or "")
        and ANY_SHAPE not in text
    ]


def test_every_array_has_its_shape_told():
    found = {path: silent(path.read_text()) for path in PACKAGE.rglob("*.py")}
    assert len(found) > 80
    assert not {path.name: names for path, names in found.items() if names}


def test_silence_is_noticed():
    header = "def f(x: jax.Array):\n    "
    assert silent(header + '"""Double."""') == ["f"]
    assert silent(header + '"""Double x [B, ...]."""') == []
    assert silent("class A:\n    def g(self, y: np.ndarray): pass") == ["g"]
    assert silent("def _f(x: jax.Array): pass") == []
