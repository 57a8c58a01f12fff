"""When a draft was committed, so that its answer need not be kept for ever.

Of those that are there it is not known; the content was logged last then, or later.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column(
        "drafts",
        sa.Column("committed_at", sa.Double(), server_default=sa.text("0"), nullable=False),
    )
    op.execute(
        "UPDATE drafts SET committed_at ="
        " (SELECT logged_at FROM versions WHERE versions.id = drafts.version_id)"
    )
    op.create_index(op.f("ix_drafts_committed_at"), "drafts", ["committed_at"], unique=False)
