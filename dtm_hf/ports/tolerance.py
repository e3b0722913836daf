"""What a port may differ from its source by, for each type of weights: the one place."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Bar:
    """
    Args:
        correlation (`float`): 1 - Pearson correlation of each output of each graph, at most.
        deviation (`float`): largest difference of two values, over the root mean square of the output, at most.
        scale (`float`): how far the ratio of the two root mean squares may be from 1.
        speech (`float`): mean distance of the log-mels of whole utterances, over that of two seeds of the source, at
            most.
        sound (`float`): the same of their waveforms, whose quiet places make more of roundings.
    """

    correlation: float
    deviation: float
    scale: float
    speech: float
    sound: float


BARS = {
    "fp32": Bar(correlation=1e-9, deviation=1e-4, scale=1e-5, speech=1e-3, sound=5e-2),
    # Weights have eleven bits; what is computed of them has all.
    "fp16": Bar(correlation=1e-6, deviation=2e-2, scale=1e-3, speech=1e-2, sound=1e-1),
    # Activations of seven bits too. A network that is wrong, or another one, has correlations far below.
    "int8": Bar(correlation=2e-2, deviation=2.0, scale=5e-2, speech=0.5, sound=0.75),
}
