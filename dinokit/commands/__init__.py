"""One file per verb: `dinokit VERB` and `dinokit.verb()` are the function of the file's own name.

A file's docstring is `dinokit VERB`: and its line of the overview. Its function's signature is its options; dotted
settings reach an argument `settings`, and `explained(words)` says whose settings `--help` lists: the words are those of
the command line, or if there are none the constant EXAMPLE, without which none are listed. Other constants that the
command line reads are FIRST and REQUIRED (of the settings), SHELL (options that only Python may leave out) and INNER
(verbs under this one). `running` with `measuring` and `beside`, and `tables` are no verbs, but what several verbs
share; `planned` is what `plan` prints, `guarding` what `adapt` may not lose.
"""
