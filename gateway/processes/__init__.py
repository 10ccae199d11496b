"""The composition roots: what each process is made of. Nothing below imports them."""
