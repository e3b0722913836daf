"""What callbacks written for diffusers see of a call and change in it; each thread sees its own."""

import threading

from dtm_hf.pipelines.sampler import SamplingState


class LastCall(threading.local):
    """The present or last call that this thread made of a pipeline."""

    state: SamplingState | None = None

    def __reduce__(self):
        # A copy of a pipeline has made no call.
        return type(self), ()


class CallStateMixin:
    """
    Of a pipeline whose calls walk with a [`SamplingState`] of their own, which they put into `_last_call`. Under the
    names that begin with `_`, a callback changes the rest of its own call, as in the pipelines of diffusers.
    """

    _last_call: LastCall

    @property
    def guidance_scale(self) -> float | None:
        """Of this thread's present or last call; `None` before the first."""
        state = self._last_call.state
        return None if state is None else state.guidance.scale

    @property
    def num_timesteps(self) -> int | None:
        """Backbone passes of this thread's present or last call; `None` before the first."""
        state = self._last_call.state
        return None if state is None else state.num_timesteps

    @property
    def interrupt(self) -> bool:
        """Whether this thread's present or last call was told to leave out the rest of its steps."""
        state = self._last_call.state
        return state is not None and state.interrupt

    @property
    def _guidance_scale(self) -> float | None:
        return self.guidance_scale

    @_guidance_scale.setter
    def _guidance_scale(self, scale: float) -> None:
        state = self._state("_guidance_scale")
        state.guidance = state.guidance.rescaled(scale)

    @property
    def _interrupt(self) -> bool:
        return self.interrupt

    @_interrupt.setter
    def _interrupt(self, interrupt: bool) -> None:
        self._state("_interrupt").interrupt = interrupt

    def _state(self, name: str) -> SamplingState:
        if self._last_call.state is None:
            raise RuntimeError(f"`{name}` is set from within a call, in `callback_on_step_end`: there is none here.")
        return self._last_call.state
