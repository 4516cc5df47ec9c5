"""One file per verb: `dinokit VERB` and `dinokit.verb()` are the function of the file's own name.

A file's docstring is `dinokit VERB`: and its line of the overview. Its function's signature is its options; dotted
settings reach an argument `settings`, and `explained(words)` says whose settings `--help` lists. `running` with
`measuring` and `beside`, and `tables` are no verbs, but what several verbs share, and `planned` is what `plan` prints.
"""
