"""One step of a shard each: read a file, call one function of mlff_core, write a file.

A task takes references (paths, names, numbers, small frozen dataclasses) and returns numbers, so it
may run in any process that sees the files. It is a plain function; flows/engines.py runs it, and
where there is a Prefect server, as a Prefect task. What must stay open between shards is in
opened.py, its processes in processes.py and writer.py, how far a step is in progress.py. The steps
of a distillation, distill.py, are Prefect tasks themselves.
"""
