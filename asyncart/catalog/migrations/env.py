"""How Alembic runs our migrations: on the connection, and in the transaction, that it is given."""

from alembic import context

from asyncart.catalog import tables

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=tables.metadata,
    render_as_batch=True,  # SQLite changes columns by copying the table
)
context.run_migrations()
