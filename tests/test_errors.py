"""The error tree is the one printed at the top of errors.py."""

import importlib
import pkgutil

import gateway
from gateway import errors


def subclasses(of: type[BaseException]) -> set[type[BaseException]]:
    below = set(of.__subclasses__())
    return below.union(*(subclasses(each) for each in below))


def test_every_error_of_the_package_stands_in_the_tree() -> None:
    for module in pkgutil.walk_packages(gateway.__path__, "gateway."):
        if not module.name.endswith(("__main__", "pn532_worker")):
            importlib.import_module(module.name)
    assert errors.__doc__ is not None
    words = set(errors.__doc__.split())
    ours = {each for each in subclasses(errors.GatewayError) if each.__module__[:8] == "gateway."}
    assert {each.__name__ for each in ours} <= words
