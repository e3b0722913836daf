"""
Trains a flow head on a frozen backbone, or a backbone from scratch.

    accelerate launch training/train.py --config training/configs/dtm_tiny.yaml [--field value ...] [--traceback]

Exit status: 0 at the end of the run; 75 after SIGTERM, SIGINT or SIGUSR1, with a checkpoint from which the same
command goes on; 1 with one line that says what is wrong, and with `--traceback` where that was found.
"""

import sys

from dtm_hf.training.systems import parse_config


def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    traceback = "--traceback" in argv
    try:
        config = parse_config([text for text in argv if text != "--traceback"])
    except ValueError as error:
        raise SystemExit(f"train.py: {error}") from None
    # Imported late: a wrong configuration is refused at once.
    from dtm_hf.training.loop.errors import RunError
    from dtm_hf.training.loop.stopping import EXIT_STOPPED
    from dtm_hf.training.trainer import Trainer

    try:
        finished = Trainer(config).train()
    except (RunError, ValueError, OSError, ImportError) as error:
        if traceback:
            raise
        raise SystemExit(f"train.py: {' '.join(str(error).split())}") from None
    if not finished:
        raise SystemExit(EXIT_STOPPED)


if __name__ == "__main__":
    main()
