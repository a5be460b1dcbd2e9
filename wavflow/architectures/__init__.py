"""The configurations of the one model class: flat, plain arguments in, an untrained `Vocoder` out.

Teacher and student are the two halves of distillation; `waveglow`, `flowavenet` and `waveflow` are flows that are trained by
maximum likelihood in one stage *and* draw in parallel, of the same parts. All whiten the audio by its mel first.
"""

from wavflow.architectures.distillation import student, teacher
from wavflow.architectures.one_stage import flowavenet, waveflow, waveglow

__all__ = ["flowavenet", "student", "teacher", "waveflow", "waveglow"]
