"""The Celery app, and the outbox that its messages leave from; a message only wakes a worker."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

from celery import Celery
from kombu.entity import Queue
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core.database.tables import OutboxRow
from core.settings import settings

TaskName = Literal["inspect", "run_job", "deliver_webhook"]
QueueName = Literal["compute", "inspect", "deliver"]

QUEUES: tuple[QueueName, ...] = get_args(QueueName)
QUEUE_OF: Mapping[TaskName, QueueName] = {"inspect": "inspect", "run_job": "compute", "deliver_webhook": "deliver"}
OUTBOX_CHANNEL = "modelpress_outbox"


class BrokerUnavailable(Exception):  # noqa: N818 - it says what is so, not what went wrong
    """Redis does not answer; the outbox keeps the message."""


def _configuration() -> dict[str, Any]:
    """Celery's settings; each that departs from the default does so for a measured reason (ADR 0004)."""
    return {
        "broker_url": settings().redis_url,
        "broker_transport_options": {
            # A task outlives this; it is then delivered twice, and the second finds nothing to claim.
            "visibility_timeout": 3600,
            "unacked_restore_interval": 10,
            "unacked_restore_throttle": 1,
            "socket_timeout": 10,
            "socket_connect_timeout": 5,
            "health_check_interval": 15,
            "retry_on_timeout": True,
            "socket_keepalive": True,
            "global_keyprefix": settings().queue_prefix,
        },
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "task_queues": [Queue(name) for name in QUEUES],
        "task_default_queue": "inspect",
        "task_create_missing_queues": False,
        "task_routes": {task: {"queue": queue} for task, queue in QUEUE_OF.items()},
        "task_acks_late": True,
        "task_reject_on_worker_lost": False,
        "task_publish_retry": False,
        "task_ignore_result": True,
        "task_serializer": "json",
        "event_serializer": "json",
        "accept_content": ["json"],
        "worker_prefetch_multiplier": 1,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_enable_remote_control": False,
        "worker_send_task_events": False,
        "worker_proc_alive_timeout": 30,
        "worker_soft_shutdown_timeout": settings().drain_seconds,
        "worker_hijack_root_logger": False,
    }


app = Celery("modelpress")
app.add_defaults(_configuration)


def enqueue(session: Session, task: TaskName, subject_id: str) -> None:
    """Has a message sent once the transaction has committed, and wakes the dispatchers."""
    session.add(OutboxRow(task=task, queue=QUEUE_OF[task], subject_id=subject_id))
    session.execute(select(func.pg_notify(OUTBOX_CHANNEL, "")))


def publish(task: str, subject_id: str) -> None:
    """Sends one message; raises BrokerUnavailable."""
    try:
        app.send_task(task, args=[subject_id])
    except (OperationalError, RedisError, OSError) as error:
        raise BrokerUnavailable(str(error)) from error


def count_messages() -> dict[str, int]:
    """How many messages wait in each queue; raises BrokerUnavailable."""
    try:
        with app.connection_for_read() as connection, connection.channel() as channel:
            # Not passively: kombu 5.7 looks for an undeclared queue without the prefix of its key.
            return {name: int(channel.queue_declare(queue=name).message_count) for name in QUEUES}
    except (OperationalError, RedisError, OSError) as error:
        raise BrokerUnavailable(str(error)) from error
