"""Who can make an optimizer step: each file turns a `Problem` into the entries of one package."""
