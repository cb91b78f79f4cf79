"""the other models that a job needs"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "job_models",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("model_id", sa.Text(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_job_models_job_id"), ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name=op.f("fk_job_models_model_id")),
        sa.ForeignKeyConstraint(
            ["tenant_id"], ["tenants.id"], name=op.f("fk_job_models_tenant_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_id", "model_id", name=op.f("pk_job_models")),
    )
    op.create_index(op.f("ix_job_models_model_id"), "job_models", ["model_id"], unique=False)


def downgrade() -> None:
    op.drop_index(op.f("ix_job_models_model_id"), table_name="job_models")
    op.drop_table("job_models")
