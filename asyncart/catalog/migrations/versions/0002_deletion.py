"""Times to live, deleted collections, and objects that may be compacted.

What was deleted before is not known any more: if anything was, every object may hold dead bytes.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("collections", sa.Column("deleted_at", sa.Double(), nullable=True))
    op.add_column("versions", sa.Column("ttl_s", sa.Double(), nullable=True))
    op.add_column(
        "versions",
        sa.Column("logged_at", sa.Double(), server_default=sa.text("0"), nullable=False),
    )
    op.add_column("objects", sa.Column("loosened_by", sa.BigInteger(), nullable=True))
    op.execute("UPDATE versions SET logged_at = created_at")
    op.execute(
        "UPDATE objects SET loosened_by = 0 WHERE state = 1"
        " AND EXISTS (SELECT 1 FROM versions WHERE deleted_at IS NOT NULL)"
        " AND object_id NOT IN (SELECT manifest_object_id FROM versions)"
    )
