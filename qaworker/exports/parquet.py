"""Pairs as Parquet: every call of ``write`` is a row group.

The bytes depend on the rows, on how they are divided and on pyarrow's version, on nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import BinaryIO

from qaworker.exports.rows import Row

# Columns whose values repeat; a dictionary of the others would only hold memory.
_REPEATED = ["question_type", "doc_id", "dataset_type", "difficulty", "language"]


class ParquetWriter:
    """Writes rows to a stream, which stays open."""

    def __init__(self, stream: BinaryIO) -> None:
        # pyarrow costs 0.2 s and 40 MB: only an export pays for it.
        import pyarrow as pa
        from pyarrow import parquet

        # Its default pool holds 4 MB more than is asked of it.
        pa.set_memory_pool(pa.system_memory_pool())
        self._pa = pa
        self._schema = pa.schema(
            [
                pa.field(name, pa.int64() if name == "chunk_idx" else pa.string(), nullable=False)
                for name in Row._fields
            ]
        )
        self._writer = parquet.ParquetWriter(
            stream,
            self._schema,
            compression="zstd",
            use_dictionary=_REPEATED,  # type: ignore[arg-type]  # the stubs know bool only
        )

    def write(self, rows: Sequence[Row]) -> None:
        """Append rows as one row group."""
        columns = [
            self._pa.array(values, field.type)
            for values, field in zip(zip(*rows, strict=True), self._schema, strict=True)
        ]
        self._writer.write_table(self._pa.Table.from_arrays(columns, schema=self._schema))

    def close(self) -> None:
        """Write the index of the row groups, without which the file cannot be read."""
        self._writer.close()
