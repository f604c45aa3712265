"""The library: the models on this machine, how they get here, and how they leave.

`local_model` is what is known of one, `places` is where they are looked for, `facts` reads what a
directory's files say, `library` puts these together, `pull` fetches from the hub, `removal` deletes
from its cache, `kv_size` estimates the memory of contexts. No weights are read, and nothing of MLX
is imported.
"""
