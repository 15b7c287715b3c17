"""A job function on its way to a spawned process."""

from __future__ import annotations

import pickle
from typing import Any, cast

import cloudpickle

from workerbee.errors import InvalidType
from workerbee.job import JobFunction


class Portable:
    """Any function, made fit for a spawned process: lambdas, closures and what __main__ defines go by value.

    Over there it is unpacked by the first who asks for it, so that a failure has somebody to tell of it.
    """

    def __init__(self, function: JobFunction | None, packed: bytes = b"") -> None:
        self._function = function
        self._packed = packed

    def __reduce__(self) -> tuple[Any, ...]:
        return Portable, (None, self.packed())

    @property
    def function(self) -> JobFunction:
        if self._function is None:
            self._function = cast(JobFunction, pickle.loads(self._packed))
        return self._function

    def packed(self) -> bytes:
        """The function as bytes. Raises `InvalidType` for one that holds what cannot leave this process."""
        try:
            return self._packed or bytes(cloudpickle.dumps(self._function))
        except Exception as error:  # whatever the __reduce__ of a user's object raises
            raise InvalidType(
                f"job_function cannot be sent to a spawned process ({type(error).__name__}: {error}); "
                "load what it holds inside the function, or use start_method='fork'"
            ) from None
