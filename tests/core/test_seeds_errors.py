import pytest

from roireg.core.errors import GeometryError, InputError, OptionalDependencyError, OutputError, RoiregError
from roireg.core.progress import ProgressEvent, silent
from roireg.core.seeds import generator, resolve_device


def test_streams_repeat_and_differ():
    assert generator(3, stream="a").random() == generator(3, stream="a").random()
    assert len({generator(s, stream=t).random() for s in (0, 1) for t in ("", "a", "b", "ab")}) == 8


def test_devices():
    assert resolve_device("cpu").type == "cpu"
    assert resolve_device("auto").type in ("cpu", "cuda")
    for name in ("gpu", "cuda:x", ""):
        with pytest.raises(InputError, match="unknown"):
            resolve_device(name)
    with pytest.raises(InputError, match="not available"):
        resolve_device("cuda:97")


def test_every_error_is_a_user_mistake_with_exit_code_two():
    for kind in (InputError, GeometryError, OutputError, OptionalDependencyError):
        assert issubclass(kind, RoiregError) and kind.exit_code == 2
    assert issubclass(GeometryError, InputError)


def test_silent_progress_returns_nothing():
    assert silent(ProgressEvent("matching regions", 0.5)) is None
