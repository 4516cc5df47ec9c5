"""`python -m dinokit` is `dinokit`; so `torchrun -m dinokit pretrain ...` starts several ranks."""

from dinokit.cli import main

if __name__ == "__main__":
    main()
