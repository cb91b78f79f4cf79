"""The Celery app of the workers; importing it registers the tasks and the signals.

Start commands (each is one process, any number of each may run; the working folder does not matter):

    celery -A workers.app worker -Q compute -c 1 -P threads --without-gossip --without-mingle -n compute@%h
    celery -A workers.app worker -Q inspect,deliver -c 2 -P threads --without-gossip --without-mingle -n inspect@%h
    python -m workers.dispatch

Two workers of one kind on one host need different `-n` names. Environment of all three: `DATABASE_URL`, `REDIS_URL`,
`STORAGE_URL`, `MODELPRESS_SCRATCH_DIR` (a folder on disk, made if missing; workers of one host share it), and optionally
`SANDBOX` and every other `MODELPRESS_*` setting. `OMP_NUM_THREADS` of a worker is handed to its runner. Add
`-l WARNING` for a quiet log. SIGTERM once is a clean stop: a worker releases its job, kills its runner and exits with 0
within `drain_seconds`; the dispatcher exits at once. A worker that can make no sandbox exits with 78 and a sentence.

Threads, not processes, because a worker only supervises: the runner is a program of its own, so the pool needs neither
isolation nor a way to kill a task, and a thread can be told to drain without an exception between two bytecodes.
"""
