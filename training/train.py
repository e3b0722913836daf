"""
Trains a flow head on a frozen backbone, or a backbone from scratch.

    accelerate launch training/train.py --config training/configs/dtm_tiny.yaml [--field value ...]
"""

import sys

from dtm_hf.training.systems import parse_config


def main(argv: list[str] | None = None) -> None:
    try:
        config = parse_config(sys.argv[1:] if argv is None else argv)
    except ValueError as error:
        raise SystemExit(f"train.py: {error}") from None
    # Imported late: a wrong configuration is refused at once.
    from dtm_hf.training.trainer import Trainer

    Trainer(config).train()


if __name__ == "__main__":
    main()
