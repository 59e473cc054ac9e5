"""The check of annotated shapes while tests run; named in pyproject.toml."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float, as everywhere in Python
