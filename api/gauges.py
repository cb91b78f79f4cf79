"""The state of the service as gauges for Prometheus."""

from prometheus_client import CollectorRegistry, Gauge

from core.resources.system import System


def gauges(system: System) -> CollectorRegistry:
    """One registry for one scrape."""
    registry = CollectorRegistry()
    jobs = Gauge("modelpress_jobs", "Jobs by state.", ("state",), registry=registry)
    for state, count in system.jobs.items():
        jobs.labels(state).set(count)
    queues = Gauge("modelpress_queue_waiting", "What waits for a worker, by queue.", ("queue",), registry=registry)
    for queue, count in system.queues.items():
        queues.labels(queue).set(count)
    workers = Gauge("modelpress_workers", "Processes alive, by kind.", ("kind",), registry=registry)
    for worker in system.workers:
        workers.labels(worker.kind).inc()
    return registry
